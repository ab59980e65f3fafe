//! The seam for judgements that take a model: the server implements [`Classifier`] with its own.

/// Says how much a text is what a label says. Called where it may block.
pub trait Classifier: Send + Sync {
    /// The labels it knows. A configuration that asks for another is refused.
    fn labels(&self) -> Vec<String>;

    /// How sure it is, from 0 to 1, that the label applies to the text. A failure blocks what was to be judged.
    fn score(&self, label: &str, text: &str) -> Result<f32, ClassifierFailure>;
}

/// The classifier has no answer. It says no more, so that it cannot say what it was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the classifier failed")]
pub struct ClassifierFailure;
