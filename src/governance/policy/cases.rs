//! What an operator expects of policies, written down as cases, and whether it holds.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use super::{Action, Asker, Circumstances, Policies, PolicyError, Question, Resource, Trust};

/// A file of cases: `[[case]]` tables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default = "default_tenant")]
    tenant: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    action: String,
    model: Option<String>,
    tool: Option<String>,
    collection: Option<String>,
    kind: Option<String>,
    /// The role that is given, with `grantRole`.
    grant_role: Option<String>,
    /// `NAME=VALUE` of the attribute that is given, with `grantAttribute`.
    grant_attribute: Option<String>,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    locked: bool,
    signer: Option<String>,
    #[serde(default)]
    route: String,
    purpose: Option<String>,
    data_classification: Option<String>,
    consent: Option<String>,
    expect: Expected,
    /// One of those that decide it.
    policy: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

/// A case that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseFailure {
    /// The case.
    pub name: String,
    /// What was decided in place of what was expected.
    pub reason: String,
}

fn default_tenant() -> String {
    super::super::DEFAULT_TENANT.to_owned()
}

/// How many cases a file has, and those that do not hold.
pub fn check_cases(policies: &Policies, path: &Path) -> Result<(usize, Vec<CaseFailure>), PolicyError> {
    let text = fs::read_to_string(path).map_err(|source| PolicyError::Unreadable { path: path.into(), source })?;
    let wrong = |reason: String| PolicyError::Cases { path: path.into(), reason };
    let Cases { case: cases } = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut failures = Vec::new();
    for case in &cases {
        let failure = case.check(policies).map_err(|reason| wrong(format!("case {:?}: {reason}", case.name)))?;
        failures.extend(failure.map(|reason| CaseFailure { name: case.name.clone(), reason }));
    }
    Ok((cases.len(), failures))
}

impl Case {
    /// Why it does not hold, if it does not.
    fn check(&self, policies: &Policies) -> Result<Option<String>, String> {
        let action = Action::of_name(&self.action).ok_or_else(|| {
            let known: Vec<&str> = Action::ALL.iter().map(|action| action.name()).collect();
            format!("action = {:?}: expected one of {}", self.action, known.join(", "))
        })?;
        let trust = Trust { locked: self.locked, signer: self.signer.as_deref() };
        let named = [
            self.model.as_deref().map(|name| Resource::Model { name, digest: &self.digest, trust }),
            self.tool.as_deref().map(Resource::Tool),
            self.collection.as_deref().map(Resource::Collection),
            self.kind.as_deref().map(Resource::Kind),
            self.grant_role.as_deref().map(Resource::Role),
            self.grant_attribute.as_deref().map(|given| Action::GrantAttribute.resource(given)),
        ];
        let mut named = named.into_iter().flatten();
        let (Some(resource), None) = (named.next(), named.next()) else {
            return Err("expected one of model, tool, collection, kind, grant_role or grant_attribute".to_owned());
        };
        let asker = Asker {
            id: "case".to_owned(),
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            source: "key".to_owned(),
            roles: self.roles.clone(),
            attributes: self.attributes.clone(),
        };
        let circumstances = Circumstances {
            route: self.route.clone(),
            purpose: self.purpose.clone(),
            data_classification: self.data_classification.clone(),
            consent: self.consent.clone(),
        };
        let question = Question { asker: &asker, action, resource, circumstances: &circumstances };
        let decision = policies.decide(&question).map_err(|error| error.to_string())?;
        let by = if decision.policies.is_empty() { "no policy".to_owned() } else { decision.policies.join(", ") };
        let word = if decision.allowed { "allowed" } else { "denied" };
        if decision.allowed != (self.expect == Expected::Allow) {
            return Ok(Some(format!("{word} by {by}")));
        }
        let expected = self.policy.as_ref().filter(|policy| !decision.policies.contains(policy));
        Ok(expected.map(|policy| format!("{word} by {by}, not by {policy}")))
    }
}
