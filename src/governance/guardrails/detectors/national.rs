//! Numbers by which states know people, each with its check digits. A number that others could pass by chance counts
//! only behind a word that says what it is.

use super::{
    Candidate, Class, Detector, Group, Judgement,
    checksum::{digits_of, is_date, luhn, mod_11_10, number, weighted},
};

const fn row(name: &'static str, pattern: &'static str, judge: fn(&Candidate<'_>) -> Option<Judgement>) -> Detector {
    Detector {
        name,
        kind: "NATIONAL_ID",
        class: Class::NationalId,
        group: Group::Words,
        pattern,
        only_longest: false,
        judge,
    }
}

pub(super) const DETECTORS: &[Detector] = &[
    row("fr_nir", r"[1-478] ?[0-9]{2} ?[0-9]{2} ?(?:[0-9]{2}|2[ABab]) ?[0-9]{3} ?[0-9]{3}[ /-]?[0-9]{2}", fr_nir),
    row("es_dni", r"(?:[0-9]{2}\.?[0-9]{3}\.?[0-9]{3}|[XYZxyz][ -]?[0-9]{7})[ -]?[A-Za-z]", es_dni),
    row(
        "it_codice_fiscale",
        r"(?:[A-Za-z]{3} ?){2}[0-9LMNPQRSTUVlmnpqrstuv]{2}[ABCDEHLMPRSTabcdehlmprst][0-9LMNPQRSTUVlmnpqrstuv]{2} ?[A-Za-z][0-9LMNPQRSTUVlmnpqrstuv]{3}[A-Za-z]",
        it_codice_fiscale,
    ),
    row("nl_bsn", r"[0-9]{4}[ .]?[0-9]{2}[ .]?[0-9]{3}|[0-9]{3}[ .][0-9]{3}[ .][0-9]{3}", nl_bsn),
    row(
        "be_rijksregisternummer",
        r"[0-9]{2}[. ]?[0-9]{2}[. ]?[0-9]{2}[ -]?[0-9]{3}[. ]?[0-9]{2}",
        be_rijksregisternummer,
    ),
    row("pl_pesel", r"[0-9]{11}", pl_pesel),
    row("de_steuer_id", r"[1-9][0-9] ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", de_steuer_id),
    row("pt_nif", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", pt_nif),
    row("se_personnummer", r"(?:[0-9]{2})?[0-9]{6}[-+]?[0-9]{4}", se_personnummer),
    row("fi_hetu", r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]", fi_hetu),
];

/// What a number passes by chance decides what it scores alone; behind a word that names it, it counts.
fn scored(candidate: &Candidate<'_>, alone: f32, words: &[&str]) -> Option<Judgement> {
    candidate.scored(if candidate.follows(words) { 0.97 } else { alone })
}

/// France, numéro d'inscription au répertoire: INSEE, décret n° 82-103. The key is 97 less the rest of the
/// number by 97, with 2A as 19 and 2B as 18.
fn fr_nir(candidate: &Candidate<'_>) -> Option<Judgement> {
    let compact: String = candidate.text.chars().filter(char::is_ascii_alphanumeric).collect();
    let digits = digits_of(&compact.to_uppercase().replace("2A", "19").replace("2B", "18"));
    let (body, key) = digits.split_at_checked(13)?;
    let month = number(&body[3..5]);
    let month_is_used = matches!(month, 1..=12 | 20..=42 | 50..=99);
    if digits.len() != 15 || !month_is_used || 97 - number(body) % 97 != number(key) || !candidate.stands_alone() {
        return None;
    }
    // As most are: of men and women, born in a month that is known, in a department.
    let usual = digits[0] < 3 && month <= 12 && number(&body[5..7]) > 0;
    let words = ["nir", "sécurité sociale", "securite sociale", "sécu", "insee", "immatriculation", "n° ss"];
    scored(candidate, if usual { 0.95 } else { 0.4 }, &words)
}

/// Spain, documento nacional de identidad and número de identidad de extranjero: Ministerio del Interior, Real Decreto
/// 1553/2005 and 557/2011. The letter is that of the rest by 23; X, Y and Z stand for 0, 1 and 2.
fn es_dni(candidate: &Candidate<'_>) -> Option<Judgement> {
    const LETTERS: &[u8] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let upper = candidate.text.to_uppercase();
    let digits = digits_of(&upper.replace('X', "0").replace('Y', "1").replace('Z', "2"));
    let foreign = upper.starts_with(['X', 'Y', 'Z']);
    // The letter at the end may be X, Y or Z itself.
    let expected = LETTERS[(number(digits.get(..8)?) % 23) as usize];
    if upper.bytes().next_back() != Some(expected) || !candidate.stands_alone() {
        return None;
    }
    let words = ["dni", "nif", "nie", "d.n.i", "n.i.f", "n.i.e", "documento", "identidad", "tie"];
    let capital = candidate.text.ends_with(|c: char| c.is_ascii_uppercase());
    scored(
        candidate,
        if foreign {
            0.8
        } else if capital {
            0.6
        } else {
            0.4
        },
        &words,
    )
}

/// Italy, codice fiscale: decreto del Ministero delle finanze of 23 December 1976, articles 2 to 7. Characters at odd
/// places count by a table; a digit that two people would share is written as a letter.
fn it_codice_fiscale(candidate: &Candidate<'_>) -> Option<Judgement> {
    /// What the characters 0 to 9, or A to Z, count at odd places.
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let characters: Vec<char> =
        candidate.text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    // A digit counts as itself, a letter by its place in the alphabet.
    let value = |c: char| c.to_digit(10).unwrap_or_else(|| u32::from(c) - u32::from('A'));
    let (&check, body) = characters.split_last()?;
    let sum: u32 =
        body.iter().enumerate().map(|(index, &c)| if index % 2 == 0 { ODD[value(c) as usize] } else { value(c) }).sum();
    let day = day_of_codice_fiscale(&characters)?;
    let day_is_used = matches!(day, 1..=31 | 41..=71);
    if characters.len() != 16 || value(check) != sum % 26 || !day_is_used || !candidate.stands_alone() {
        return None;
    }
    candidate.scored(0.98)
}

/// The day of birth, 40 more for women. The letters L M N P Q R S T U V stand for the digits.
fn day_of_codice_fiscale(characters: &[char]) -> Option<u32> {
    let digit = |c: &char| c.to_digit(10).or_else(|| "LMNPQRSTUV".find(*c).map(|at| at as u32));
    Some(digit(characters.get(9)?)? * 10 + digit(characters.get(10)?)?)
}

/// Netherlands, burgerservicenummer: RvIG, Logisch ontwerp BSN, the test of eleven, whose last weight is -1.
fn nl_bsn(candidate: &Candidate<'_>) -> Option<Judgement> {
    let digits = digits_of(candidate.text);
    let (&last, body) = digits.split_last()?;
    let sum = weighted(body, &[9, 8, 7, 6, 5, 4, 3, 2]);
    if digits.iter().all(|&digit| digit == 0) || sum % 11 != last % 11 || !candidate.stands_alone() {
        return None;
    }
    scored(candidate, 0.3, &["bsn", "burgerservicenummer", "sofinummer", "sofi"])
}

/// Belgium, rijksregisternummer, numéro national: koninklijk besluit of 3 April 1984. 97 less the rest of the first nine
/// digits by 97; people born from 2000 on have a 2 in front of them.
fn be_rijksregisternummer(candidate: &Candidate<'_>) -> Option<Judgement> {
    let digits = digits_of(candidate.text);
    let (body, key) = digits.split_at_checked(9)?;
    let fits = |number: u64| 97 - number % 97 == self::number(key);
    let (month, day) = (number(&body[2..4]) % 20, number(&body[4..6])); // 20 or 40 more in a bis number
    let date_is_used = month <= 12 && day <= 31 && number(&body[2..4]) < 53;
    let serial_is_used = (1..=998).contains(&number(&body[6..9]));
    let checks = fits(number(body)) || fits(number(body) + 2_000_000_000);
    if !checks || !date_is_used || !serial_is_used || !candidate.stands_alone() {
        return None;
    }
    let written_out = candidate.text.contains('-') && candidate.text.contains('.');
    let words = ["rijksregisternummer", "rijksregister", "rrn", "insz", "niss", "registre national", "numéro national"];
    scored(candidate, if written_out { 0.95 } else { 0.45 }, &words)
}

/// Poland, PESEL: ustawa o ewidencji ludności of 24 September 2010, article 15. The month has the century in it.
fn pl_pesel(candidate: &Candidate<'_>) -> Option<Judgement> {
    let digits = digits_of(candidate.text);
    let month = number(&digits[2..4]) as u32;
    let century = [1900, 2000, 2100, 2200, 1800][month as usize / 20];
    let year = century + number(&digits[..2]) as u32;
    let sum = weighted(&digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]);
    let is_date = is_date(year, month % 20, number(&digits[4..6]) as u32);
    if !sum.is_multiple_of(10) || !is_date || !candidate.stands_alone() {
        return None;
    }
    let alone = if (1900..2100).contains(&year) { 0.45 } else { 0.2 };
    scored(candidate, alone, &["pesel", "nr pesel", "numer pesel"])
}

/// Germany, Identifikationsnummer: § 139b AO, BZSt. ISO/IEC 7064 MOD 11,10; of the first ten digits one occurs twice or
/// three times, never three in a row, and the others at most once.
fn de_steuer_id(candidate: &Candidate<'_>) -> Option<Judgement> {
    let digits = digits_of(candidate.text);
    let mut counts = [0; 10];
    digits[..10].iter().for_each(|&digit| counts[digit as usize] += 1);
    let repeated: Vec<&i32> = counts.iter().filter(|&&count| count > 1).collect();
    let one_repeats = matches!(repeated[..], [2 | 3]);
    let in_a_row = digits[..10].windows(3).any(|three| three[0] == three[1] && three[1] == three[2]);
    if !one_repeats || in_a_row || !mod_11_10(&digits) || !candidate.stands_alone() {
        return None;
    }
    let words = [
        "steuer-id",
        "steuerid",
        "steueridentifikationsnummer",
        "identifikationsnummer",
        "idnr",
        "id-nr",
        "steuer-idnr",
        "tin",
        "tax id",
        "steuerliche",
    ];
    scored(candidate, if candidate.text.matches(' ').count() == 3 { 0.6 } else { 0.4 }, &words)
}

/// Portugal, número de identificação fiscal: Autoridade Tributária, Decreto-Lei 14/2013. Weights 9 to 2; 11 less the rest
/// by 11, and 0 for 10 and 11.
fn pt_nif(candidate: &Candidate<'_>) -> Option<Judgement> {
    let digits = digits_of(candidate.text);
    let rest = weighted(&digits[..8], &[9, 8, 7, 6, 5, 4, 3, 2]) % 11;
    let check = if rest < 2 { 0 } else { 11 - rest };
    let of_people = matches!((digits[0], digits[1]), (1..=3, _) | (4, 5));
    if check != digits[8] || !of_people || !candidate.stands_alone() {
        return None;
    }
    scored(candidate, 0.3, &["nif", "n.i.f", "contribuinte", "identificação fiscal", "número fiscal"])
}

/// Sweden, personnummer and samordningsnummer: folkbokföringslag (1991:481), 18 §, and Skatteverket's SKV 704. Luhn over
/// ten digits; 60 more for the day of a samordningsnummer.
fn se_personnummer(candidate: &Candidate<'_>) -> Option<Judgement> {
    let all = digits_of(candidate.text);
    let (century, digits) = all.split_at_checked(all.len().checked_sub(10)?)?;
    let year = if century.is_empty() { 2000 } else { number(century) as u32 * 100 } + number(&digits[..2]) as u32;
    let day = number(&digits[4..6]) as u32;
    let is_date = is_date(year, number(&digits[2..4]) as u32, if day > 60 { day - 60 } else { day });
    let century_is_used = century.is_empty() || matches!(number(century), 18..=20);
    if !luhn(digits) || !is_date || !century_is_used || !candidate.stands_alone() {
        return None;
    }
    let separated = candidate.text.contains(['-', '+']);
    let alone = if separated {
        0.8
    } else if century.is_empty() {
        0.3
    } else {
        0.55
    };
    scored(candidate, alone, &["personnummer", "pnr", "samordningsnummer", "personnr"])
}

/// Finland, henkilötunnus: DVV, laki 661/2009, 11 §. The sign is the century; the last character is that of the rest of
/// the nine digits by 31.
fn fi_hetu(candidate: &Candidate<'_>) -> Option<Judgement> {
    const CHARACTERS: &[u8] = b"0123456789ABCDEFHJKLMNPRSTUVWXY";
    let digits = digits_of(candidate.text.get(..6)?);
    let serial = digits_of(candidate.text.get(7..10)?);
    let century = match candidate.text.as_bytes()[6] {
        b'+' => 1800,
        b'-' | b'U'..=b'Y' => 1900,
        _ => 2000,
    };
    let year = century + number(&digits[4..6]) as u32;
    let rest = (number(&digits) * 1000 + number(&serial)) % 31;
    let checks = candidate.text.bytes().next_back() == Some(CHARACTERS[rest as usize]);
    let is_date = is_date(year, number(&digits[2..4]) as u32, number(&digits[..2]) as u32);
    if !checks || !is_date || number(&serial) < 2 || !candidate.stands_alone() {
        return None;
    }
    candidate.scored(0.97)
}
