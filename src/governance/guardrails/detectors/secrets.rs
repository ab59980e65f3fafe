//! Secrets: keys and tokens by the forms that their issuers document, and what is assigned to a name of a secret.

use super::{Candidate, Class, Detector, Group, Judge, Judgement, is_word};

const fn row(name: &'static str, kind: &'static str, pattern: &'static str, judge: Judge) -> Detector {
    Detector { name, kind, class: Class::Secret, group: Group::Words, pattern, only_longest: true, judge }
}

pub(super) const DETECTORS: &[Detector] = &[
    // AWS, IAM User Guide, "IAM identifiers": the prefix says what the id is of.
    row("aws_key", "AWS_KEY", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]+", |candidate| token(candidate, 20, 20)),
    // GitHub Docs, "About authentication to GitHub", formats of tokens.
    row("github_token", "GITHUB_TOKEN", r"gh[pousr]_[A-Za-z0-9]+", |candidate| token(candidate, 40, 255)),
    row("github_token", "GITHUB_TOKEN", r"github_pat_[A-Za-z0-9_]+", |candidate| token(candidate, 33, 255)),
    // GitLab Docs, "Token overview", prefixes of tokens.
    row(
        "gitlab_token",
        "GITLAB_TOKEN",
        r"gl(?:pat|dt|rt|ptt|cbt|ft|imt|agent|oas|soat|ffct)-[A-Za-z0-9_.-]+",
        |candidate| token(candidate, 25, 255),
    ),
    // Slack, "Token types" and "Sending messages using incoming webhooks".
    row("slack_token", "SLACK_TOKEN", r"xox[abceoprs](?:\.xox[bp])?-[A-Za-z0-9-]+", |candidate| {
        token(candidate, 20, 255)
    }),
    row("slack_token", "SLACK_TOKEN", r"xapp-[0-9]+-[A-Za-z0-9-]+", |candidate| token(candidate, 20, 255)),
    row(
        "slack_token",
        "SLACK_TOKEN",
        r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/]+",
        |candidate| token(candidate, 50, 255),
    ),
    // Stripe, "API keys": secret and restricted keys; publishable ones (`pk_`) are no secrets.
    row("stripe_key", "STRIPE_KEY", r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]+", |candidate| token(candidate, 24, 255)),
    row("stripe_key", "STRIPE_KEY", r"whsec_[A-Za-z0-9+/=]+", |candidate| token(candidate, 24, 255)),
    // Google Cloud, "Manage API keys"; "OAuth 2.0".
    row("google_key", "GOOGLE_KEY", r"AIza[A-Za-z0-9_-]+", |candidate| token(candidate, 39, 39)),
    row("google_key", "GOOGLE_KEY", r"GOCSPX-[A-Za-z0-9_-]+", |candidate| token(candidate, 35, 35)),
    // OpenAI, Anthropic, OpenRouter, DeepSeek and others: `sk-` and something random.
    row("model_api_key", "API_KEY", r"sk-[A-Za-z0-9_-]+", |candidate| token(candidate, 23, 255)),
    // Hugging Face and npm: prefixes of access tokens.
    row("model_api_key", "API_KEY", r"hf_[A-Za-z0-9]+", |candidate| token(candidate, 37, 40)),
    row("npm_token", "NPM_TOKEN", r"npm_[A-Za-z0-9]+", |candidate| token(candidate, 40, 40)),
    // RFC 7519: three parts in base64url, of which the first two are objects, `{"`.
    Detector {
        group: Group::Tokens,
        ..row("jwt", "JWT", r"eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", jwt)
    },
    // RFC 7468 and RFC 4716; armour of OpenPGP. What its lines are separated by may be written as in JSON.
    Detector {
        group: Group::Armour,
        ..row(
            "private_key",
            "PRIVATE_KEY",
            concat!(
                r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----",
                r"(?:(?:\s|\\[nr])+(?:[A-Za-z-]{4,20}: [^\n\\]{1,100}|[A-Za-z0-9+/=]+))+",
                r"(?:(?:\s|\\[nr])*-----END (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----)?",
            ),
            private_key,
        )
    },
    // RFC 3986, 3.2.1: what is before the host.
    row(
        "url_credentials",
        "CREDENTIALS",
        r"[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/:@]{0,64}:[^\s/@]{1,128}@",
        url_credentials,
    ),
    row(
        "secret_assignment",
        "SECRET",
        concat!(
            r"(?i:[a-z0-9_]*(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key",
            r"|credentials?|mot[_ -]de[_ -]passe|passwort|kennwort|contraseña|clave|parola[_ ]d.ordine|wachtwoord|hasło)",
            r"[a-z0-9_]{0,16})",
            r#"["']?[ \t]{0,4}(?::=|=>|=|:)[ \t]{0,4}(?:"[^"\n]+"|'[^'\n]+'|[^\s"',;<>(){}\[\]]+)"#,
        ),
        secret_assignment,
    ),
];

/// A token of this length, in bytes, that stands alone and is not an example of the form only: it has digits, and many
/// different characters.
fn token(candidate: &Candidate<'_>, shortest: usize, longest: usize) -> Option<Judgement> {
    let joins = |c: char| is_word(c) || c == '-';
    let alone = !candidate.before_char().is_some_and(joins) && !candidate.after.is_some_and(joins);
    let text = candidate.text.trim_end_matches(['.', '-']);
    let fits = (shortest..=longest).contains(&text.len());
    if !alone || !fits || !is_random(text) {
        return None;
    }
    Some(Judgement { score: 0.95, range: 0..text.len() })
}

fn jwt(candidate: &Candidate<'_>) -> Option<Judgement> {
    if candidate.text.len() < 36 {
        return None;
    }
    candidate.scored(0.95)
}

/// A marker counts with something behind it that is too long for a word.
fn private_key(candidate: &Candidate<'_>) -> Option<Judgement> {
    let armoured = |line: &str| line.len() >= 24 && !line.contains('-');
    let body = candidate.text.split(|c: char| c.is_whitespace() || c == '\\');
    if !body.map(|line| line.trim_start_matches(['n', 'r'])).any(armoured) {
        return None;
    }
    candidate.scored(0.99)
}

/// The user and the password are the finding; the rest of the address stays.
fn url_credentials(candidate: &Candidate<'_>) -> Option<Judgement> {
    let start = candidate.text.find("://")? + "://".len();
    let end = candidate.text.len() - 1;
    let (_, password) = candidate.text[start..end].split_once(':')?;
    let host_follows = candidate.after.is_some_and(|c| c.is_alphanumeric() || c == '[');
    if is_stand_in(password) || !host_follows {
        return None;
    }
    Some(Judgement { score: 0.9, range: start..end })
}

/// The value is the finding. Without quotes only what looks random counts, as it may be a name or a sentence.
fn secret_assignment(candidate: &Candidate<'_>) -> Option<Judgement> {
    let text = candidate.text;
    let name_ends = text.find([':', '='])?;
    let after_sign = text[name_ends..].trim_start_matches([':', '=', '>', ' ', '\t']);
    let start = text.len() - after_sign.len();
    let quoted = after_sign.len() > 1 && after_sign.ends_with(['"', '\'']) && after_sign.starts_with(['"', '\'']);
    let range =
        if quoted { start + 1..text.len() - 1 } else { start..start + after_sign.trim_end_matches(['.', '\\']).len() };
    let value = &text[range.clone()];
    let length = value.chars().count();
    let fits = if quoted {
        length >= 6 && !value.contains(' ') && (kinds_of_characters(value) >= 2 && entropy(value) >= 2.25)
    } else {
        length >= 8
            && kinds_of_characters(value) >= 2
            && value.contains(|c: char| c.is_ascii_digit())
            && entropy(value) >= 2.75
    };
    if !fits || is_stand_in(value) {
        return None;
    }
    Some(Judgement { score: if quoted { 0.8 } else { 0.7 }, range })
}

/// Does this stand where a secret would, in documentation and in code that reads it from elsewhere?
fn is_stand_in(value: &str) -> bool {
    const WORDS: &[&str] = &[
        "example",
        "changeme",
        "change_me",
        "your",
        "xxxx",
        "placeholder",
        "dummy",
        "redacted",
        "****",
        "...",
        "env",
        "secrets.",
    ];
    let lower = value.to_lowercase();
    value.starts_with(['$', '<', '{', '%', '[']) || WORDS.iter().any(|word| lower.contains(word))
}

fn is_random(token: &str) -> bool {
    token.contains(|c: char| c.is_ascii_digit()) && entropy(token) >= 3.0
}

/// How many of capital letters, small letters, digits and other characters there are.
fn kinds_of_characters(text: &str) -> usize {
    let kinds: [fn(char) -> bool; 4] =
        [char::is_uppercase, char::is_lowercase, char::is_numeric, |c| !c.is_alphanumeric()];
    kinds.into_iter().filter(|kind| text.contains(kind)).count()
}

/// Shannon's entropy of a text's bytes, in bits a byte.
fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let length = text.len() as f64;
    let share = |&count: &u32| f64::from(count) / length;
    counts.iter().filter(|&&count| count > 0).map(share).map(|share| -share * share.log2()).sum()
}
