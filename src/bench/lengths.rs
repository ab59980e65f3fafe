//! Numbers of tokens, drawn from a distribution. Main type: [`Lengths`], which reads what people type.

use std::{fmt, str::FromStr};

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Exp, LogNormal, Normal};

/// Lengths beyond this are a mistake in typing: no model takes as many tokens.
const MOST_TOKENS: u32 = 10_000_000;

/// How many tokens: `128`; `64..256`, uniform with both ends; `normal:MEAN:SD`, `lognormal:MEAN:SD` (mean and
/// standard deviation of the lengths themselves) or `exponential:MEAN`. What is drawn is rounded, and at least 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths {
    text: String,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Fixed(u32),
    Uniform(u32, u32),
    Normal(Normal<f64>),
    LogNormal(LogNormal<f64>),
    Exponential(Exp<f64>),
}

/// Text that names no distribution of lengths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no number of tokens: write 128, 64..256, normal:MEAN:SD, lognormal:MEAN:SD or exponential:MEAN, \
     with numbers from 1 to {MOST_TOKENS}"
)]
pub struct LengthsError(String);

impl Lengths {
    /// Always this many tokens.
    pub fn fixed(tokens: u32) -> Self {
        Self { text: tokens.to_string(), shape: Shape::Fixed(tokens) }
    }

    /// One length.
    pub fn draw(&self, rng: &mut impl Rng) -> u32 {
        let tokens = match self.shape {
            Shape::Fixed(tokens) => return tokens,
            Shape::Uniform(low, high) => return rng.random_range(low..=high),
            Shape::Normal(normal) => normal.sample(rng),
            Shape::LogNormal(log_normal) => log_normal.sample(rng),
            Shape::Exponential(exponential) => exponential.sample(rng),
        };
        tokens.round().clamp(1.0, f64::from(MOST_TOKENS)) as u32
    }
}

impl FromStr for Lengths {
    type Err = LengthsError;

    fn from_str(text: &str) -> Result<Self, LengthsError> {
        let shape = parse(text).ok_or_else(|| LengthsError(text.to_owned()))?;
        Ok(Self { text: text.to_owned(), shape })
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse(text: &str) -> Option<Shape> {
    if let Some((low, high)) = text.split_once("..") {
        let (low, high) = (tokens(low)?, tokens(high)?);
        return (low <= high).then_some(Shape::Uniform(low, high));
    }
    let mut parts = text.split(':');
    let name = parts.next()?;
    let numbers = parts.map(number).collect::<Option<Vec<f64>>>()?;
    match (name, numbers.as_slice()) {
        (text, []) => tokens(text).map(Shape::Fixed),
        ("normal", [mean, deviation]) => Normal::new(*mean, *deviation).ok().map(Shape::Normal),
        ("lognormal", [mean, deviation]) => LogNormal::from_mean_cv(*mean, deviation / mean).ok().map(Shape::LogNormal),
        ("exponential", [mean]) => Exp::new(1.0 / mean).ok().map(Shape::Exponential),
        _ => None,
    }
}

fn tokens(text: &str) -> Option<u32> {
    text.parse().ok().filter(|tokens| (1..=MOST_TOKENS).contains(tokens))
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| (1.0..=f64::from(MOST_TOKENS)).contains(value))
}
