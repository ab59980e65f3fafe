//! What a model makes of a whole text, beside or instead of continuing it.

/// What a forward pass can be asked for, beside keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// Logits of the next token.
    pub logits: bool,
    /// Width of what a text is pooled to; `None` if it cannot be.
    pub pooled_width: Option<usize>,
}

/// What a text is pooled to: always from its last token, the only one that has seen all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The last token's hidden state after the final norm, `(width)`.
    Embedding {
        /// Length of the vector.
        width: usize,
        /// Does the checkpoint want vectors of length 1?
        normalized: bool,
        /// Most tokens of a text, those around it included, where the checkpoint wants fewer than the model could take.
        max_seq_length: Option<usize>,
    },
    /// A score per label, from the last token's hidden state.
    Classes {
        /// Names of the classes, at least one.
        labels: Vec<String>,
        /// What scores become.
        activation: Activation,
    },
}

/// What becomes of the scores of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Probabilities of classes that exclude each other.
    Softmax,
    /// A probability for each class of its own.
    Sigmoid,
    /// The scores as they are: a regression.
    Identity,
}

impl Outputs {
    /// Those of a model that only continues texts.
    pub const LOGITS: Outputs = Outputs { logits: true, pooled_width: None };
}

impl Pooling {
    /// Values per text.
    pub fn width(&self) -> usize {
        match self {
            Self::Embedding { width, .. } => *width,
            Self::Classes { labels, .. } => labels.len(),
        }
    }

    /// Most tokens of a text, if the checkpoint says so.
    pub fn max_seq_length(&self) -> Option<usize> {
        match self {
            Self::Embedding { max_seq_length, .. } => *max_seq_length,
            Self::Classes { .. } => None,
        }
    }
}

impl Activation {
    /// Of the scores of one text, `(labels)`.
    pub fn apply(self, scores: &[f32]) -> Vec<f32> {
        match self {
            Self::Identity => scores.to_vec(),
            Self::Sigmoid => scores.iter().map(|&score| sigmoid(score)).collect(),
            Self::Softmax => {
                // Relative to the largest, so that nothing overflows.
                let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let powers: Vec<f64> = scores.iter().map(|&score| f64::from(score - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.iter().map(|power| (power / sum) as f32).collect()
            }
        }
    }
}

/// `1 / (1 + exp(-score))`
pub fn sigmoid(score: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(score)).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_and_nothing_overflows() {
        let softmax = Activation::Softmax.apply(&[1000.0, 1000.0, -1000.0]);
        assert_eq!(softmax, [0.5, 0.5, 0.0]);
        assert_eq!(Activation::Sigmoid.apply(&[0.0, 1000.0, -1000.0]), [0.5, 1.0, 0.0]);
        assert_eq!(Activation::Identity.apply(&[-3.5]), [-3.5]);
    }
}
