//! The categories of both APIs under their names, and what each means here: the words that a model is asked with.
//!
//! The names are OpenAI's and Mistral's; the sentences are ours. A classification checkpoint's label is a category if it
//! has its name, whatever the case and whatever stands between the words.

/// A category of texts.
#[derive(Debug)]
pub(super) struct Category {
    /// As on the wire.
    pub(super) name: &'static str,
    /// Completes "Does the text ...?".
    pub(super) question: &'static str,
}

impl Category {
    /// Is it what a label means?
    pub(super) fn is_named(&self, label: &str) -> bool {
        let letters = |name: &str| -> String {
            name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
        };
        letters(self.name) == letters(label)
    }
}

const fn category(name: &'static str, question: &'static str) -> Category {
    Category { name, question }
}

/// OpenAI's.
pub(super) const OPENAI: &[Category] = &[
    category("harassment", "insult, humiliate or bully a person, or call on others to do so"),
    category("harassment/threatening", "insult or bully a person and also threaten them with violence or serious harm"),
    category(
        "hate",
        "express or stir up hate against people because of their origin, skin colour, religion, gender, sexual \
         orientation or disability",
    ),
    category(
        "hate/threatening",
        "express hate against such a group of people and also threaten it with violence or serious harm",
    ),
    category("illicit", "give instructions or advice for committing a crime or another forbidden act"),
    category(
        "illicit/violent",
        "give instructions or advice for a crime with violence, or for getting a weapon for it",
    ),
    category("self-harm", "promote, encourage or depict self-harm, suicide or an eating disorder"),
    category("self-harm/intent", "say that its author harms themselves or intends to"),
    category("self-harm/instructions", "tell others how to harm themselves, or encourage them to"),
    category("sexual", "describe sexual acts in order to arouse, or offer sexual services"),
    category("sexual/minors", "describe anybody under 18 years in a sexual way"),
    category("violence", "depict or call for death, violence or injury"),
    category("violence/graphic", "depict death, violence or injury in graphic detail"),
];

/// Mistral's, of its first classifier.
pub(super) const MISTRAL: &[Category] = &[
    category("sexual", "describe sexual acts in order to arouse, or offer sexual services"),
    category(
        "hate_and_discrimination",
        "express hate, prejudice or contempt against people because of what they are, or call for treating them worse",
    ),
    category("violence_and_threats", "depict, praise or call for violence, or threaten somebody with it"),
    category(
        "dangerous_and_criminal_content",
        "help with a crime or a dangerous act, such as making weapons, drugs or malicious software, or fraud",
    ),
    category("selfharm", "promote, plan, encourage or depict self-harm, suicide or an eating disorder"),
    category("health", "give or ask for medical advice that should come from a doctor"),
    category("financial", "give or ask for financial advice that should come from a professional"),
    category("law", "give or ask for legal advice that should come from a lawyer"),
    category(
        "pii",
        "contain or ask for details that identify a private person, such as an address or an account number",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_their_letters() {
        let named = |label: &str| OPENAI.iter().find(|category| category.is_named(label)).map(|category| category.name);
        assert_eq!(named("Hate/Threatening"), Some("hate/threatening"));
        assert_eq!(named("hate_threatening"), Some("hate/threatening"));
        assert_eq!(named("SELF-HARM"), Some("self-harm"));
        assert_eq!(named("LABEL_0"), None);
    }
}
