//! A question to the policies, and what Cedar makes of it.

use std::collections::BTreeMap;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};

use super::PolicyError;

const NAMESPACE: &str = "Tramontane";

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Have the model generate, embed, classify or judge.
    Infer,
    /// Have text turned into tokens, or back.
    Tokenize,
    /// Know what is served.
    ReadModel,
    /// Look at what is stored.
    ReadStored,
    /// Store something, or change it.
    WriteStored,
    /// Delete what is stored.
    DeleteStored,
    /// Know how the server is.
    ReadStatus,
    /// Look at keys, tenants, policies, quotas, audit.
    ReadAdministration,
    /// Change them.
    ChangeAdministration,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Infer,
        Self::Tokenize,
        Self::ReadModel,
        Self::ReadStored,
        Self::WriteStored,
        Self::DeleteStored,
        Self::ReadStatus,
        Self::ReadAdministration,
        Self::ChangeAdministration,
    ];

    /// As policies have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Tokenize => "tokenize",
            Self::ReadModel => "readModel",
            Self::ReadStored => "readStored",
            Self::WriteStored => "writeStored",
            Self::DeleteStored => "deleteStored",
            Self::ReadStatus => "readStatus",
            Self::ReadAdministration => "readAdministration",
            Self::ChangeAdministration => "changeAdministration",
        }
    }

    /// The action that policies call so.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// Who asks, as far as policies can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// Unique.
    pub id: String,
    /// For people.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// Where it is from: `key` or `token`.
    pub source: String,
    /// Any names; those without a policy give nothing.
    pub roles: Vec<String>,
    /// What else is known.
    pub attributes: BTreeMap<String, String>,
}

/// With what it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// The model.
    Model {
        /// Its first name.
        name: &'a str,
        /// Of its weights.
        digest: &'a str,
        /// Who vouches for its files.
        trust: Trust<'a>,
    },
    /// A kind of thing.
    Kind(&'a str),
}

/// Who vouches for a model's files. Nobody, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trust<'a> {
    /// They are those of a lock.
    pub locked: bool,
    /// The trusted key that signed them, or their lock.
    pub signer: Option<&'a str>,
}

/// What the request says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Where it was sent, as a pattern: `/v1/files/{id}`.
    pub route: String,
    /// What for.
    pub purpose: Option<String>,
    /// How sensitive its data is.
    pub data_classification: Option<String>,
    /// On what a person's consent is recorded.
    pub consent: Option<String>,
}

/// May this one do that with this, under these circumstances?
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who.
    pub asker: &'a Asker,
    /// What.
    pub action: Action,
    /// With what.
    pub resource: Resource<'a>,
    /// How.
    pub circumstances: &'a Circumstances,
}

/// Names of types, parsed once.
pub(super) struct Names {
    principal: EntityTypeName,
    role: EntityTypeName,
    tenant: EntityTypeName,
    model: EntityTypeName,
    kind: EntityTypeName,
    action: EntityTypeName,
}

impl Names {
    pub(super) fn new() -> Result<Self, PolicyError> {
        let name = |name: &str| format!("{NAMESPACE}::{name}").parse().map_err(wrong);
        Ok(Self {
            principal: name("Principal")?,
            role: name("Role")?,
            tenant: name("Tenant")?,
            model: name("Model")?,
            kind: name("Kind")?,
            action: name("Action")?,
        })
    }

    /// The question in Cedar's terms, checked against the schema, and everything that policies may look up.
    pub(super) fn request(&self, question: &Question<'_>, schema: &Schema) -> Result<(Request, Entities), PolicyError> {
        let asker = self.asker(question.asker)?;
        let resource = self.resource(question.resource)?;
        let action = uid(&self.action, question.action.name());
        let request = Request::new(asker.uid(), action, resource.uid(), context(question.circumstances)?, Some(schema));
        let entities = Entities::from_entities([asker, resource], None).map_err(wrong)?;
        Ok((request.map_err(wrong)?, entities))
    }

    fn asker(&self, asker: &Asker) -> Result<Entity, PolicyError> {
        let attributes = [("name", &asker.name), ("tenant", &asker.tenant), ("source", &asker.source)];
        let parents = asker.roles.iter().map(|role| uid(&self.role, role)).chain([uid(&self.tenant, &asker.tenant)]);
        let tags = asker.attributes.iter().map(|(name, value)| (name.clone(), string(value)));
        let attributes = attributes.map(|(name, value)| (name.to_owned(), string(value)));
        Entity::new_with_tags(uid(&self.principal, &asker.id), attributes, parents, tags).map_err(wrong)
    }

    fn resource(&self, resource: Resource<'_>) -> Result<Entity, PolicyError> {
        match resource {
            Resource::Model { name, digest, trust: Trust { locked, signer } } => {
                let signed = [("locked", locked), ("signed", signer.is_some())];
                let signed = signed.map(|(name, value)| (name.to_owned(), RestrictedExpression::new_bool(value)));
                let texts = [("digest", Some(digest)), ("signer", signer)];
                let texts = texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), string(value?))));
                let attributes = texts.chain(signed);
                Entity::new_with_tags(uid(&self.model, name), attributes, [], []).map_err(wrong)
            }
            Resource::Kind(name) => Ok(Entity::with_uid(uid(&self.kind, name))),
        }
    }
}

fn context(circumstances: &Circumstances) -> Result<Context, PolicyError> {
    let Circumstances { route, purpose, data_classification, consent } = circumstances;
    let given = [
        ("route", Some(route)),
        ("purpose", purpose.as_ref()),
        ("dataClassification", data_classification.as_ref()),
        ("consent", consent.as_ref()),
    ];
    let pairs = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), string(value?))));
    Context::from_pairs(pairs).map_err(wrong)
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn wrong(error: impl std::fmt::Display) -> PolicyError {
    PolicyError::Question { reason: error.to_string() }
}
