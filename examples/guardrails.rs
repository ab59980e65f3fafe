//! What checking costs: `cargo run --release --example guardrails` prints megabytes a second of input, microseconds that
//! a piece of an answer takes, how many bytes are held back, and how many pieces later a piece leaves for that.

use std::{collections::VecDeque, time::Instant};

use tramontane::governance::guardrails::{ActiveGuardrails, Guardrails, GuardrailsConfig, Vault};

const DETECTORS: &[(&str, &str)] = &[
    ("all detectors", r#"detect = ["all"]"#),
    ("personal data", r#"detect = ["personal_data"]"#),
    ("secrets", r#"detect = ["secret"]"#),
    ("prompt injection", r#"detect = ["injection"]"#),
    ("words", r#"words = ["project crane", "kranich", "grue cendrée"]"#),
];

const PROSE: &[&str] = &[
    "The committee met on 14 May to discuss the budget for the coming year, which had grown by 3.2 % since the last one. ",
    "Les habitants du quartier ont demandé que la rue soit fermée aux voitures pendant l'été, de 10 heures à 18 heures.\n",
    "Der Zug hatte zwölf Minuten Verspätung, weshalb wir den Anschluss verpassten und eine Stunde warten mussten. ",
    "El museo abre de martes a domingo; la entrada cuesta 8 euros, y los menores de doce años no pagan nada.\n\n",
    "Le istruzioni sono semplici: si mescola la farina con l'acqua, si lascia riposare e si cuoce a 180 gradi. ",
    "fn main() { let total: u64 = items.iter().map(|item| item.price * item.count).sum(); println!(\"{total}\"); }\n",
    "- First, install the package (version 2.4.1). - Then set `timeout_ms = 5000` in the file; see https://example.org/docs#3. ",
];

/// Among so many sentences there is one with something to find.
const SENTENCES_FOR_A_FINDING: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = text(1_000_000);
    let titles =
        ["MB/s", "us a piece", "bytes held", "most", "pieces later", "most"].map(|title| format!("{title:>13}"));
    println!("{:<18}{}", "", titles.concat());
    for (name, keys) in DETECTORS {
        let config = format!("[[guardrail]]\nname = \"g\"\nstage = \"both\"\naction = \"redact\"\n{keys}");
        let config: GuardrailsConfig = toml::from_str(&config)?;
        let active = Guardrails::new(config, None)?.select("tenant", "model", "/v1/chat/completions");
        let speed = input_speed(&active, &text);
        let Stream { us_a_piece, held, later } = stream(&active, &text);
        println!(
            "{name:<18}{speed:>13.1}{us_a_piece:>13.2}{:>13.1}{:>13}{:>13.2}{:>13}",
            held.mean, held.most, later.mean, later.most
        );
    }
    let config = "[[guardrail]]\nname = \"g\"\nstage = \"input\"\naction = \"redact\"\ndetect = [\"all\"]";
    let active = Guardrails::new(toml::from_str(config)?, None)?.select("tenant", "model", "/");
    let read = active.check_input(&[&text]).work_bytes as f64 / text.len() as f64;
    println!("bytes read for each byte of the text, all detectors: {read:.1}");
    println!("the worst that we know, digits with spaces: {:.1} MB/s", input_speed(&active, &"1 ".repeat(500_000)));
    Ok(())
}

fn text(bytes: usize) -> String {
    let mut text = String::new();
    for index in 0.. {
        if text.len() >= bytes {
            break;
        }
        text += PROSE[index * 5 % PROSE.len()];
        if index % SENTENCES_FOR_A_FINDING == 0 {
            text += &format!("Write to user{index}@example.org or pay to DE89 3704 0044 0532 0130 00. ");
        }
    }
    text
}

/// Megabytes a second, the best of five.
fn input_speed(active: &ActiveGuardrails, text: &str) -> f64 {
    let time = |_| {
        let start = Instant::now();
        assert!(active.check_input(&[text]).blocked.is_none());
        start.elapsed().as_secs_f64()
    };
    text.len() as f64 / 1e6 / (0..5).map(time).fold(f64::INFINITY, f64::min)
}

struct Stream {
    us_a_piece: f64,
    held: Amount,
    later: Amount,
}

#[derive(Default)]
struct Amount {
    mean: f64,
    most: usize,
}

impl Amount {
    fn of(all: impl ExactSizeIterator<Item = usize>) -> Self {
        let count = all.len() as f64;
        let (sum, most) = all.fold((0, 0), |(sum, most), one| (sum + one, most.max(one)));
        Self { mean: sum as f64 / count, most }
    }
}

/// An answer in pieces of four characters, which is about what a token is.
fn stream(active: &ActiveGuardrails, text: &str) -> Stream {
    let characters: Vec<char> = text.chars().collect();
    let pieces: Vec<String> = characters.chunks(4).map(|piece| piece.iter().collect()).collect();
    let pass = || {
        let mut guard = active.output(Vault::default());
        let mut held = Vec::with_capacity(pieces.len());
        let start = Instant::now();
        for piece in &pieces {
            assert!(guard.push(piece).blocked.is_none());
            held.push(guard.held_bytes());
        }
        (start.elapsed().as_secs_f64(), held)
    };
    let runs: Vec<(f64, Vec<usize>)> = (0..3).map(|_| pass()).collect();
    let best = runs.iter().map(|(seconds, _)| *seconds).fold(f64::INFINITY, f64::min);
    let held = &runs[0].1;
    Stream {
        us_a_piece: best * 1e6 / pieces.len() as f64,
        later: Amount::of(delays(&pieces, held).into_iter()),
        held: Amount::of(held.iter().copied()),
    }
}

/// For each piece, with how many others behind it the last of it has left. Of what is left at the end nothing is known.
fn delays(pieces: &[String], held: &[usize]) -> Vec<usize> {
    let (mut delays, mut waiting, mut end) = (Vec::new(), VecDeque::new(), 0);
    for (index, (piece, held)) in pieces.iter().zip(held).enumerate() {
        end += piece.len();
        waiting.push_back((index, end));
        while let Some((since, _)) = waiting.pop_front_if(|(_, piece_end)| *piece_end <= end - held) {
            delays.push(index - since);
        }
    }
    delays
}
