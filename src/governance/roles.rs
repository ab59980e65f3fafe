//! What policies let each role do.

use serde::Serialize;

use super::{
    GovernanceError, Role,
    policy::{Action, Asker, Circumstances, Policies, Question, Resource},
};

/// Something that a role may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Right {
    /// As policies have it.
    pub action: &'static str,
    /// `model`, a kind of thing, a role, or `*` for attributes that no policy names.
    pub resource: String,
    /// Policies that permit it.
    pub policies: Vec<String>,
}

/// All that a role may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoleRights {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// What somebody may do who has this role and nothing else.
    pub allowed: Vec<Right>,
}

impl RoleRights {
    /// Asks policies, for somebody of a tenant who has no attributes and whose request says nothing of itself. Policies that
    /// go by more may decide otherwise.
    pub fn of(role: Role, policies: &Policies, tenant: &str) -> Result<Self, GovernanceError> {
        let asker = Asker {
            id: "somebody".to_owned(),
            name: "somebody".to_owned(),
            tenant: tenant.to_owned(),
            source: "key".to_owned(),
            roles: vec![role.name().to_owned()],
            ..Asker::default()
        };
        let circumstances = Circumstances::default();
        let mut allowed = Vec::new();
        for action in Action::ALL {
            for resource in resources(action) {
                let question = Question { asker: &asker, action, resource, circumstances: &circumstances };
                let decision = policies.decide(&question)?;
                if decision.allowed {
                    let resource = name_of(resource).to_owned();
                    allowed.push(Right { action: action.name(), resource, policies: decision.policies });
                }
            }
        }
        Ok(Self { name: role.name(), description: role.description(), allowed })
    }
}

/// What is asked about.
fn resources(action: Action) -> Vec<Resource<'static>> {
    match action {
        Action::Infer | Action::Tokenize | Action::ReadModel => vec![action.resource("model")],
        Action::UseTool | Action::SearchCollection | Action::ChangeCollection | Action::GrantAttribute => {
            vec![action.resource("*")]
        }
        Action::GrantRole => Role::ALL.map(|role| Resource::Role(role.name())).into(),
        Action::ReadStored
        | Action::WriteStored
        | Action::DeleteStored
        | Action::ReadStatus
        | Action::ReadAdministration
        | Action::ChangeAdministration => action.kinds().iter().map(|kind| Resource::Kind(kind)).collect(),
    }
}

fn name_of(resource: Resource<'static>) -> &'static str {
    match resource {
        Resource::Kind(name)
        | Resource::Role(name)
        | Resource::Tool(name)
        | Resource::Collection(name)
        | Resource::Model { name, .. }
        | Resource::Attribute { name, .. } => name,
    }
}
