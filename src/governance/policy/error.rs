//! What can be wrong with policies, cases and questions.

use std::{io, path::PathBuf};

/// Why policies cannot be used, or a question not be decided.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file or a directory cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory without policies would deny everything, which nobody means.
    #[error("{} has no file whose name ends with .cedar", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// It is not written as policies are.
    #[error("{file}, line {line}, column {column}: {reason}")]
    Syntax {
        /// Name of the file.
        file: String,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// It speaks of what the schema does not have.
    #[error("{reasons}")]
    Invalid {
        /// What is wrong, each with the file and the line.
        reasons: String,
    },
    /// Two policies have one name.
    #[error("{file}: there is a policy with @id({name:?}) already")]
    SameName {
        /// Name of the file.
        file: String,
        /// Of both.
        name: String,
    },
    /// Templates say nothing until they are linked, which nothing here does.
    #[error("{file} has a template (?principal or ?resource), which would never apply")]
    Template {
        /// Name of the file.
        file: String,
    },
    /// A question that the schema does not know.
    #[error("{reason}")]
    Question {
        /// What is wrong with it.
        reason: String,
    },
    /// The file of cases is wrong.
    #[error("{}: {reason}", path.display())]
    Cases {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
