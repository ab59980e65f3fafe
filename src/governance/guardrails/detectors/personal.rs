//! Personal data: bank accounts, payment cards, addresses of mail and of machines, telephone numbers.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    Candidate, Class, Detector, Group, Judge, Judgement,
    checksum::{digits_of, luhn, mod_97},
    is_word,
};

const fn row(name: &'static str, kind: &'static str, pattern: &'static str, judge: Judge) -> Detector {
    Detector { name, kind, class: Class::PersonalData, group: Group::Words, pattern, only_longest: false, judge }
}

pub(super) const DETECTORS: &[Detector] = &[
    row("iban", "IBAN", r"[A-Za-z]{2}[0-9]{2}(?:[ \x{a0}-]?[A-Za-z0-9]){11,30}", iban),
    row("payment_card", "CARD", r"[0-9](?:[ \x{a0}-]?[0-9]){11,18}", payment_card),
    Detector {
        group: Group::Addresses,
        ..row("email", "EMAIL", r"[\p{L}\p{N}._%+'-]+@(?:[\p{L}\p{N}-]+\.)+(?:\p{L}+|xn--[a-z0-9]+)", email)
    },
    row("phone", "PHONE", r"\+[1-9](?:[ \x{a0}./()-]{0,2}[0-9]){7,14}", international_phone),
    row("phone", "PHONE", r"00[1-9](?:[ \x{a0}./()-]{0,2}[0-9]){7,13}", international_phone),
    row("phone", "PHONE", NATIONAL_PHONES, national_phone),
    Detector { only_longest: true, ..row("ip_address", "IP", r"[0-9]{1,3}(?:\.[0-9]{1,3}){3,9}", ipv4) },
    Detector { only_longest: true, ..row("ip_address", "IP", IPV6, ipv6) },
];

/// Lengths of IBANs by country: SWIFT's IBAN registry (ISO 13616).
const IBAN_LENGTHS: &[(usize, &str)] = &[
    (15, "NO"),
    (16, "BE"),
    (18, "DK FI FO GL NL FK SD"),
    (19, "MK SI"),
    (20, "AT BA EE KZ LT LU MN XK"),
    (21, "CH HR LI LV"),
    (22, "BG BH CR DE GB GE IE ME RS VA"),
    (23, "AE GI IL IQ OM SO TL"),
    (24, "AD CZ ES MD PK RO SA SE SK TN VG"),
    (25, "LY PT ST"),
    (26, "IS TR"),
    (27, "BI DJ FR GR IT MC MR SM"),
    (28, "AL AZ BY CY DO GT HN HU LB NI PL SV"),
    (29, "BR EG PS QA UA"),
    (30, "JO KW MU YE"),
    (31, "MT SC"),
    (32, "LC"),
    (33, "RU"),
];

/// ISO 13616-1: the first four characters go to the end, letters are two digits, and the rest of a division by 97 is 1.
fn iban(candidate: &Candidate<'_>) -> Option<Judgement> {
    let characters: String = candidate.text.chars().filter(char::is_ascii_alphanumeric).collect();
    let (country, _) = characters.split_at(2);
    let country = country.to_ascii_uppercase();
    let (length, _) = IBAN_LENGTHS.iter().find(|(_, countries)| countries.split(' ').any(|one| one == country))?;
    let whole = characters.len() == *length
        && !candidate.before_char().is_some_and(is_word)
        && !candidate.after.is_some_and(is_word);
    let (head, body) = characters.split_at(4);
    if !whole || mod_97(body.chars().chain(head.chars())) != 1 {
        return None;
    }
    candidate.scored(0.99)
}

/// First digits and lengths: ISO/IEC 7812 and what Visa, Mastercard, American Express, Diners Club, Discover, JCB and
/// UnionPay publish. (lowest, highest, how many first digits, lengths)
const ISSUERS: &[(u32, u32, usize, &[usize])] = &[
    (4, 4, 1, &[13, 16, 19]),
    (51, 55, 2, &[16]),
    (2221, 2720, 4, &[16]),
    (34, 34, 2, &[15]),
    (37, 37, 2, &[15]),
    (300, 305, 3, &[14, 16, 19]),
    (36, 36, 2, &[14, 16, 19]),
    (38, 39, 2, &[14, 16, 19]),
    (6011, 6011, 4, &[16, 19]),
    (644, 659, 3, &[16, 19]),
    (3528, 3589, 4, &[16, 19]),
    (62, 62, 2, &[16, 17, 18, 19]),
    // Maestro
    (5018, 5018, 4, &[12, 13, 16, 18, 19]),
    (5020, 5020, 4, &[12, 13, 16, 18, 19]),
    (5038, 5038, 4, &[12, 13, 16, 18, 19]),
    (6304, 6304, 4, &[12, 13, 16, 18, 19]),
    (6759, 6763, 4, &[12, 13, 16, 18, 19]),
];

fn payment_card(candidate: &Candidate<'_>) -> Option<Judgement> {
    if !candidate.stands_alone() {
        return None;
    }
    let digits = digits_of(candidate.text);
    let issued = |&(low, high, count, lengths): &(u32, u32, usize, &[usize])| {
        let first = digits[..count].iter().fold(0, |value, digit| value * 10 + digit);
        (low..=high).contains(&first) && lengths.contains(&digits.len())
    };
    if !ISSUERS.iter().any(issued) || !luhn(&digits) {
        return None;
    }
    // As printed on the card; otherwise the digits are of several numbers.
    let groups: Vec<usize> = candidate.text.split([' ', '\u{a0}', '-']).map(str::len).collect();
    let fours = groups[..groups.len() - 1].iter().all(|&length| length == 4) && groups.last().is_some_and(|&n| n <= 4);
    match groups[..] {
        [_] => candidate.scored(0.8),
        [4, 6, 4 | 5] => candidate.scored(0.95),
        _ if fours => candidate.scored(0.95),
        _ => None,
    }
}

/// What follows the last dot of names that look like an address but are files: none is a top-level domain.
const FILE_ENDINGS: &[&str] = &[
    "png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "ts", "json", "html", "pdf", "yml", "yaml", "toml", "whl",
];

/// RFC 5321: a local part of up to 64 octets, labels of up to 63, and a top-level domain of letters.
fn email(candidate: &Candidate<'_>) -> Option<Judgement> {
    let (local, domain) = candidate.text.split_once('@')?;
    let trimmed = local.trim_start_matches(['.', '\'', '-', '%', '+']);
    let joined = candidate.after.is_some_and(|c| is_word(c) || c == '@');
    let labels_fit = domain
        .split('.')
        .all(|label| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-'));
    let ending = domain.rsplit('.').next()?.to_lowercase();
    let is_file = FILE_ENDINGS.contains(&ending.as_str());
    // What is before the host of an address of the web is no local part.
    let url = candidate.context().rsplit_once("://");
    let in_url = url.is_some_and(|(_, behind)| !behind.contains(|c: char| c == '/' || c.is_whitespace()));
    let is_remote = candidate.after == Some(':') && matches!(trimmed, "git" | "hg" | "svn");
    let local_fits = (1..=64).contains(&trimmed.len()) && !trimmed.ends_with('.') && !trimmed.contains("..");
    if joined || in_url || !labels_fit || !local_fits || is_file || is_remote || ending.chars().count() < 2 {
        return None;
    }
    Some(Judgement { score: 0.95, range: local.len() - trimmed.len()..candidate.text.len() })
}

/// Words that a telephone number follows, in English, French, German, Spanish, Italian, Dutch, Polish and Portuguese.
const PHONE_WORDS: &[&str] = &[
    "contact",
    "kontakt",
    "contacto",
    "contatto",
    "tel",
    "phone",
    "telephone",
    "mobile",
    "cell",
    "fax",
    "call",
    "whatsapp",
    "sms",
    "téléphone",
    "portable",
    "appelez",
    "appeler",
    "joindre",
    "rappeler",
    "telefon",
    "telefonnummer",
    "handy",
    "handynummer",
    "mobil",
    "rufnummer",
    "mobilnummer",
    "durchwahl",
    "anrufen",
    "teléfono",
    "móvil",
    "llame",
    "llamar",
    "llámame",
    "telefono",
    "cellulare",
    "chiamare",
    "chiamami",
    "telefoon",
    "bel",
    "komórka",
    "telefone",
    "telemóvel",
];

/// Calling codes of two digits, besides 1 and 7: ITU-T E.164, list of assigned country codes. All others have three.
const TWO_DIGIT_CODES: &[u32] = &[
    20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 51, 52, 53, 54, 55, 56, 57, 58, 60, 61, 62,
    63, 64, 65, 66, 81, 82, 84, 86, 90, 91, 92, 93, 94, 95, 98,
];

/// First two digits of calling codes that have three.
const THREE_DIGIT_CODES: &[u32] =
    &[21, 22, 23, 24, 25, 26, 29, 35, 37, 38, 42, 50, 59, 67, 68, 69, 80, 85, 87, 88, 96, 97, 99];

/// ITU-T E.164: a country's code and up to 15 digits in all.
fn international_phone(candidate: &Candidate<'_>) -> Option<Judgement> {
    let all = digits_of(candidate.text);
    let plus = candidate.text.starts_with('+');
    let digits = if plus { &all[..] } else { &all[2..] };
    let leading = digits[0] * 10 + digits[1];
    let assigned =
        matches!(digits[0], 1 | 7) || TWO_DIGIT_CODES.contains(&leading) || THREE_DIGIT_CODES.contains(&leading);
    let alone = candidate.stands_alone() && balanced(candidate.text);
    if !assigned || !alone || !(8..=15).contains(&digits.len()) {
        return None;
    }
    let grouped = candidate.text.chars().skip(1).any(|c| !c.is_ascii_digit());
    match (plus, grouped) {
        _ if candidate.follows(PHONE_WORDS) => candidate.scored(0.95),
        (true, true) => candidate.scored(0.9),
        (true, false) => candidate.scored(0.75),
        (false, true) if TWO_DIGIT_CODES.contains(&leading) => candidate.scored(0.6),
        (false, _) => candidate.scored(0.3),
    }
}

/// Numbers as people write them within France (pairs), Germany (code and number), Spain (nine digits), Italy and the
/// United Kingdom (mobiles).
const NATIONAL_PHONES: &str = r"(?:0[1-9](?:[ \x{a0}.-]?[0-9]{2}){4}|\(?0[1-9][0-9]{1,4}\)?[ /-]{1,3}[0-9]{3,8}(?:[ -][0-9]{1,5}){0,3}|[6789][0-9]{2}(?:[ .-]?[0-9]{3}){2}|[6789][0-9]{2}(?:[ .-][0-9]{2}){3}|3[0-9]{2}[ .-]?[0-9]{3}[ .-]?[0-9]{3,4}|07[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3})";

fn national_phone(candidate: &Candidate<'_>) -> Option<Judgement> {
    let digits = digits_of(candidate.text);
    if !candidate.stands_alone() || !balanced(candidate.text) || !(9..=13).contains(&digits.len()) {
        return None;
    }
    let separators: Vec<char> = candidate.text.chars().filter(|c| !c.is_ascii_digit()).collect();
    let french = digits.len() == 10 && separators.len() == 4 && separators.iter().all(|c| *c == separators[0]);
    let german_mobile = matches!(digits[..3], [0, 1, 5..=7]) && !separators.is_empty();
    let british_mobile = matches!(digits[..2], [0, 7]) && digits.len() == 11 && !separators.is_empty();
    match () {
        () if candidate.follows(PHONE_WORDS) => candidate.scored(0.9),
        () if french => candidate.scored(0.75),
        () if german_mobile || british_mobile => candidate.scored(0.6),
        () => candidate.scored(0.35),
    }
}

fn balanced(text: &str) -> bool {
    let opened = text.matches('(').count();
    opened == text.matches(')').count() && opened <= 1 && text.find('(') <= text.find(')')
}

/// Four decimal numbers below 256, no more and no fewer: RFC 791. Versions of programs look the same.
fn ipv4(candidate: &Candidate<'_>) -> Option<Judgement> {
    let address: Ipv4Addr = candidate.text.parse().ok()?;
    let joins = |c: char| is_word(c) || c == '.' || c == '-';
    let alone = !candidate.before_char().is_some_and(joins) && !candidate.after.is_some_and(is_word);
    let version =
        candidate.follows(&["version", "versión", "versione", "release", "ver", "build", "firmware", "section"]);
    if !alone || version {
        return None;
    }
    let names_nobody = address.is_loopback() || address.is_unspecified() || address.octets()[0] == 255;
    candidate.scored(if names_nobody { 0.2 } else { 0.8 })
}

const IPV6: &str = r"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}|[0-9]{1,3}(?:\.[0-9]{1,3}){3})?";

/// RFC 4291, 2.2. A short form counts with three groups, or a prefix that is in use, as `a::b` is code.
fn ipv6(candidate: &Candidate<'_>) -> Option<Judgement> {
    let joins = |c: char| is_word(c) || c == ':';
    let address: Ipv6Addr = candidate.text.parse().ok()?;
    let alone = !candidate.before_char().is_some_and(joins) && !candidate.after.is_some_and(joins);
    let groups = candidate.text.split(':').filter(|group| !group.is_empty()).count();
    let first = address.segments()[0];
    let in_use = (0x2000..0x4000).contains(&first) || (0xfc00..0xfe00).contains(&first) || first & 0xffc0 == 0xfe80;
    if !alone || groups < 2 || (groups < 3 && !in_use) {
        return None;
    }
    candidate.scored(0.9)
}
