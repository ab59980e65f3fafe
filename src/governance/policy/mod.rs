//! Who may do what: Cedar policies (<https://docs.cedarpolicy.com>), decided for one [`Question`] at a time.
//!
//! [`Policies`] is the seam: a question goes in, a [`Decision`] comes out. The schema says what policies can speak of, and
//! every set is validated against it before it is used. Where the operator has no policies the built-in ones apply.
//!
//! Invariants: what no policy permits is denied, and so is what a policy fails to decide; a set that is wrong never
//! replaces one that is right; a decision is made by one set, whatever is loaded meanwhile.

mod cases;
mod error;
mod question;
mod source;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cedar_policy::{Authorizer, Entities, PolicySet};

pub use self::{
    cases::{CaseFailure, check_cases},
    error::PolicyError,
    question::{Action, Asker, Circumstances, Question, Resource, Trust},
};
use self::{question::Names, source::Loaded};
use super::reloaded::Reloaded;

/// The built-in policies, as a beginning for an operator's own.
pub const DEFAULT_POLICIES: &str = include_str!("default.cedar");
/// What policies can speak of.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// A set of policies that can be loaded anew while questions are decided. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Policies {
    inner: Arc<Inner>,
}

struct Inner {
    /// Of a directory; the built-in ones, if there is none.
    loaded: Reloaded<Loaded>,
    names: Names,
}

/// What the policies say to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// May it be done?
    pub allowed: bool,
    /// Those that decided it: those that permit it, or those that forbid it. None if nothing permits it.
    pub policies: Vec<String>,
    /// Policies that could not be evaluated. One is enough to deny.
    pub errors: Vec<String>,
}

impl Policies {
    /// The built-in ones.
    pub fn built_in() -> Result<Self, PolicyError> {
        Self::load(None)
    }

    /// All files of a directory whose names end with `.cedar`, in place of the built-in ones.
    pub fn open(directory: &Path) -> Result<Self, PolicyError> {
        Self::load(Some(directory.into()))
    }

    /// Reads them again. If they are wrong, what was there before goes on to apply.
    pub fn reload(&self) -> Result<(), PolicyError> {
        self.reload_if(|_| Ok(()))
    }

    /// Where they are from; the built-in ones if nowhere.
    pub fn directory(&self) -> Option<&Path> {
        self.inner.loaded.source().as_deref()
    }

    /// The same once somebody who is told the digest agrees.
    pub(super) fn reload_if<E: From<PolicyError>>(&self, agreed: impl FnOnce(&str) -> Result<(), E>) -> Result<(), E> {
        self.inner.loaded.reload_if(agreed)
    }

    /// SHA-256 of the schema and of all policies, in hexadecimal digits.
    pub fn digest(&self) -> String {
        self.loaded().digest.clone()
    }

    /// Names of the policies, in the order of files and in them.
    pub fn names(&self) -> Vec<String> {
        self.loaded().names.clone()
    }

    /// May it be done?
    pub fn decide(&self, question: &Question<'_>) -> Result<Decision, PolicyError> {
        let loaded = self.loaded();
        let (request, entities) = self.inner.names.request(question, &loaded.schema)?;
        Ok(decide(&loaded.policies, &request, &entities))
    }

    fn load(directory: Option<PathBuf>) -> Result<Self, PolicyError> {
        Ok(Self { inner: Arc::new(Inner { loaded: Reloaded::open(directory)?, names: Names::new()? }) })
    }

    fn loaded(&self) -> Arc<Loaded> {
        self.inner.loaded.current()
    }
}

fn decide(policies: &PolicySet, request: &cedar_policy::Request, entities: &Entities) -> Decision {
    let response = Authorizer::new().is_authorized(request, policies, entities);
    let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
    let mut policies: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
    policies.sort();
    // Cedar leaves out a policy that fails; one that would have forbidden is not to be lost that way.
    let allowed = response.decision() == cedar_policy::Decision::Allow && errors.is_empty();
    Decision { allowed, policies, errors }
}
