//! What may be said: guardrails over what callers send and what models answer.
//!
//! [`Guardrails`] is the seam. It is compiled from a [`GuardrailsConfig`]; [`Guardrails::select`] gives the
//! [`ActiveGuardrails`] of a request; [`ActiveGuardrails::check_input`] checks and redacts its texts; and
//! [`ActiveGuardrails::output`] makes an [`OutputGuard`], through which the answer passes piece by piece.
//!
//! ```
//! use tramontane::governance::guardrails::{Guardrails, GuardrailsConfig};
//!
//! let config: GuardrailsConfig = toml::from_str(
//!     r#"
//!     [[guardrail]]
//!     name = "personal"
//!     stage = "input"
//!     detect = ["personal_data"]
//!     action = "redact"
//!     mode = "reversible"
//!     "#,
//! )?;
//! let guardrails = Guardrails::new(config, None)?;
//! let active = guardrails.select("acme", "mistral-small", "/v1/chat/completions");
//! let input = active.check_input(&["Write to ada@example.org, please."]);
//! assert_eq!(input.texts, ["Write to [EMAIL_1], please."]);
//!
//! let mut output = active.output(input.vault);
//! let mut answer = String::new();
//! for piece in ["I wrote to [EM", "AIL_1]", "."] {
//!     answer += &output.push(piece).text;
//! }
//! answer += &output.finish().text;
//! assert_eq!(answer, "I wrote to ada@example.org.");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants: work grows in proportion to the text, whatever it is, as there is no backtracking; an answer is judged the
//! same however it is cut into pieces, and nothing of it leaves before it is judged; findings, errors and `Debug` never
//! hold text that was checked. It knows nothing of HTTP, models, tenants' rights or time.
//!
//! How it works: patterns are walked as automata from each place where one may begin, and an automaton that is still
//! alive at the end of what there is says how much has to be held back. What it finds is judged by checksums and context
//! (`detectors`), and what overlaps is resolved (`resolve`).

mod apply;
mod automaton;
mod classify;
mod compile;
mod config;
mod detectors;
mod error;
mod finding;
mod input;
mod output;
mod passages;
mod plan;
mod resolve;
mod rules;
mod scan;
#[cfg(test)]
mod tests;
mod vault;

use std::{fmt, sync::Arc};

pub use self::{
    classify::{Classifier, ClassifierFailure},
    config::{ClassifierConfig, GuardrailConfig, GuardrailsConfig, Mode},
    error::GuardrailsError,
    finding::{Action, BlockCause, Blocked, Finding, Stage},
    input::{InputOutcome, Replacement},
    output::{OutputGuard, Released},
    vault::Vault,
};
use self::{
    compile::Guardrail,
    plan::{Length, Plan, Question},
    rules::Rules,
};

/// All guardrails of a configuration. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Guardrails {
    guardrails: Arc<[Guardrail]>,
    rules: Arc<Rules>,
    classifier: Option<Arc<dyn Classifier>>,
}

/// The guardrails of one kind of request. Cheap to clone, and the same for all requests with the same tenant, model and
/// route.
#[derive(Clone)]
pub struct ActiveGuardrails {
    names: Arc<[Arc<str>]>,
    input: Arc<Plan>,
    output: Arc<Plan>,
}

impl Guardrails {
    /// Compiles a configuration; `classifier` answers what its `classifier` tables ask.
    pub fn new(config: GuardrailsConfig, classifier: Option<Arc<dyn Classifier>>) -> Result<Self, GuardrailsError> {
        compile::compile(config, classifier)
    }

    /// Are all routes that are named among these?
    pub fn check_routes(&self, routes: &[&str]) -> Result<(), GuardrailsError> {
        self.guardrails.iter().enumerate().try_for_each(|(index, guardrail)| guardrail.check_routes(index, routes))
    }

    /// Those that apply to a request; where it is not known on which route, those of all. Takes time in proportion to the
    /// configuration: callers keep the result.
    pub fn select<'r>(&self, tenant: &str, model: &str, route: impl Into<Option<&'r str>>) -> ActiveGuardrails {
        let route = route.into();
        let applies = |guardrail: &&Guardrail| {
            guardrail.tenants.admits(tenant)
                && guardrail.models.admits(model)
                && route.is_none_or(|route| guardrail.routes.admits(route))
        };
        let selected: Vec<&Guardrail> = self.guardrails.iter().filter(applies).collect();
        ActiveGuardrails {
            names: selected.iter().map(|guardrail| Arc::clone(&guardrail.of.guardrail)).collect(),
            input: Arc::new(self.plan(&selected, Stage::Input)),
            output: Arc::new(self.plan(&selected, Stage::Output)),
        }
    }

    fn plan(&self, selected: &[&Guardrail], stage: Stage) -> Plan {
        let mut plan = Plan::new(Arc::clone(&self.rules), self.classifier.clone());
        for guardrail in selected.iter().filter(|guardrail| guardrail.stage.includes(stage)) {
            for &rule in &guardrail.rules {
                plan.uses[rule].push(guardrail.of.clone());
            }
            let of = || guardrail.of.clone();
            plan.lengths.extend(guardrail.max_chars.map(|max_chars| Length { max_chars, of: of() }));
            plan.questions.extend(guardrail.label.clone().map(|label| Question { label, of: of() }));
        }
        plan.finish();
        plan
    }
}

impl ActiveGuardrails {
    /// Names of the guardrails that apply, in the configuration's order.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Is an input checked at all?
    pub fn checks_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Is an answer checked at all? One whose vault is not empty has to pass through an [`OutputGuard`] in any case.
    pub fn checks_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Checks all texts of a request, in the order in which they are sent. Texts are as people read them: what JSON
    /// escapes is decoded. Blocks the thread while a classifier is asked.
    pub fn check_input<'t>(&self, texts: &[&'t str]) -> InputOutcome<'t> {
        input::check(&self.input, texts)
    }

    /// Makes the guard of an answer to a request whose placeholders are in `vault`. Each choice of an answer has its own.
    pub fn output(&self, vault: impl Into<Arc<Vault>>) -> OutputGuard {
        OutputGuard::new(Arc::clone(&self.output), vault.into())
    }
}

impl fmt::Debug for Guardrails {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.guardrails.iter().map(|guardrail| &*guardrail.of.guardrail).collect();
        formatter.debug_struct("Guardrails").field("names", &names).finish_non_exhaustive()
    }
}

impl fmt::Debug for ActiveGuardrails {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ActiveGuardrails").field("names", &self.names).finish_non_exhaustive()
    }
}
