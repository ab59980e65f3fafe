//! Attempts to talk a model out of its instructions: phrases that such texts are made of, in five languages.
//!
//! This is a list of what is often seen, not a defence: whoever rewords, encodes or translates gets past it, and a text
//! about such attacks is found too. The families: leaving instructions behind; asking for the instructions; another
//! identity without rules; an authority that is made up; text that poses as the markup of a conversation.

use super::{Candidate, Class, Detector, Group, Judgement};

const fn row(name: &'static str, pattern: &'static str, judge: fn(&Candidate<'_>) -> Option<Judgement>) -> Detector {
    Detector {
        name,
        kind: "INJECTION",
        class: Class::Injection,
        group: Group::Words,
        pattern,
        only_longest: true,
        judge,
    }
}

fn phrase(candidate: &Candidate<'_>) -> Option<Judgement> {
    candidate.scored(0.8)
}

fn vague_phrase(candidate: &Candidate<'_>) -> Option<Judgement> {
    candidate.scored(0.6)
}

pub(super) const DETECTORS: &[Detector] = &[
    row(
        "injection_override",
        r"(?i:(?:ignore|disregard|forget|override|bypass|skip|do not follow|don't follow)(?:\s+[^\s.!?]{1,16}){0,4}\s+(?:previous|prior|above|earlier|preceding|original|initial|system|your|all)(?:\s+[^\s.!?]{1,16}){0,3}\s+(?:instructions?|prompts?|rules|directions?|guidelines|constraints|directives|restrictions|programming|training))",
        phrase,
    ),
    row(
        "injection_override",
        r"(?i:(?:ignore[rsz]?|ignorez|oublie[rsz]?|oubliez|néglige[rz]?|contourne[rz]?|fais abstraction|faites abstraction)(?:\s+[^\s.!?]{1,16}){0,5}\s+(?:instructions?|consignes?|règles|directives|restrictions?)(?:\s+(?:précédentes?|antérieures?|ci-dessus|initiales?|du système|données|reçues))?)",
        phrase,
    ),
    row(
        "injection_override",
        r"(?i:(?:ignoriere?n?|vergiss|vergessen sie|missachte|missachten sie|umgehe|umgehen sie|überschreibe|setze)(?:\s+[^\s.!?]{1,16}){0,5}\s+(?:anweisung(?:en)?|instruktionen|vorgaben|regeln|befehle|richtlinien|anleitungen|systemprompts?))",
        phrase,
    ),
    row(
        "injection_override",
        r"(?i:(?:ignora|ignore|ignorad|olvida|olvide|omite|omita|desobedece|sáltate)(?:\s+[^\s.!?]{1,16}){0,5}\s+(?:instrucciones|indicaciones|reglas|directrices|órdenes|restricciones))",
        phrase,
    ),
    row(
        "injection_override",
        r"(?i:(?:ignora|ignorate|ignorare|dimentica|dimenticate|dimenticare|trascura|scavalca|aggira)(?:\s+[^\s.!?]{1,16}){0,5}\s+(?:istruzioni|indicazioni|regole|direttive|restrizioni))",
        phrase,
    ),
    row(
        "injection_disclosure",
        r"(?i:(?:reveal|print|show|repeat|output|display|leak|tell me|give me|what (?:is|are|was|were)|expose|dump)(?:\s+[^\s.!?]{1,16}){0,4}\s+(?:system prompt|system message|initial prompt|initial instructions|hidden instructions|hidden prompt|secret instructions|original instructions|prompt above|text above|words above|instructions above))",
        phrase,
    ),
    row(
        "injection_disclosure",
        r"(?i:(?:révèle[rz]?|affiche[rz]?|montre[rz]?|répète[rz]?|répétez|donne[rz]?|zeige?n?|verrate?n?|wiederhole?n?|gib|nenne?n?|revela|muestra|repite|imprime|dime|rivela|mostra|mostrami|ripeti|stampa|dimmi)(?:\s+[^\s.!?]{1,16}){0,5}\s+(?:prompt système|prompt du système|message système|instructions initiales|instructions cachées|system-?prompts?|systemnachricht|systemanweisung(?:en)?|ursprünglichen? anweisungen|prompt del sistema|prompt de sistema|mensaje del sistema|instrucciones iniciales|instrucciones ocultas|prompt di sistema|messaggio di sistema|istruzioni iniziali|istruzioni nascoste))",
        phrase,
    ),
    row(
        "injection_identity",
        r"(?i:(?:you are now|from now on,? you are|act as|pretend (?:to be|that you are|you are)|roleplay as|behave as)(?:\s+[^\s.!?]{1,16}){0,4}\s+(?:dan|jailbroken|unrestricted|unfiltered|uncensored|without (?:any )?(?:restrictions|rules|limits|filters|guidelines|limitations)|developer mode|god mode|no restrictions|evil))",
        phrase,
    ),
    row(
        "injection_identity",
        r"(?i:(?:tu es (?:maintenant|désormais)|vous êtes (?:maintenant|désormais)|agis comme|fais comme si|du bist (?:jetzt|ab jetzt|nun)|sie sind (?:jetzt|ab jetzt|nun)|verhalte dich|tu so,?|ahora eres|a partir de ahora eres|actúa como|finge ser|ora sei|adesso sei|da ora in poi sei|agisci come|fingi di essere)(?:\s+[^\s.!?]{1,16}){0,6}\s+(?:dan|sans (?:aucune )?(?:restrictions?|règles|limites?|filtres?|censure)|ohne (?:jede |jegliche )?(?:einschränkung(?:en)?|regeln|filter|grenzen|beschränkung(?:en)?|zensur)|sin (?:ninguna )?(?:restricci(?:ón|ones)|reglas|límites|filtros|censura)|senza (?:alcuna )?(?:restrizion[ei]|regole|limiti|filtr[oi]|censura)))",
        phrase,
    ),
    row(
        "injection_identity",
        r"(?i:do anything now|developer mode (?:enabled|activated|on)|jailbreak (?:mode|prompt)|(?:enable|activate|enter) (?:developer|god|jailbreak|dan|debug) mode|opposite mode)",
        vague_phrase,
    ),
    row(
        "injection_authority",
        r"(?i:(?:new|updated|real|urgent) (?:system )?(?:instructions?|directives?|prompt) ?(?:from (?:the )?(?:system|admin(?:istrator)?|developers?|openai|mistral)|:)|(?:this is|i am|i'm) (?:your|the|an?) (?:developer|creator|system administrator|administrator|openai engineer|mistral engineer)[.,!]?(?:\s+[^\s.!?]{1,16}){0,6}\s+(?:override|authori[sz]ed?|disable|unlock))",
        vague_phrase,
    ),
    row(
        "injection_markup",
        r"(?i:\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]|<\|(?:im_start|im_end|system|assistant|user|endoftext|eot_id|start_header_id|end_header_id)\|>|<</?SYS>>|</?(?:system|system_prompt|instructions)>|#{2,4} ?(?:system|instruction|new instructions) ?(?:prompt|message)? ?:)",
        phrase,
    ),
];
