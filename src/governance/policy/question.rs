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
    /// Have the model know of a tool, as one that it may call or has called.
    UseTool,
    /// Find passages of a collection.
    SearchCollection,
    /// Put documents into a collection, or take them out.
    ChangeCollection,
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
    /// Give somebody's key a role.
    GrantRole,
    /// Give somebody's key an attribute.
    GrantAttribute,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Infer,
        Self::Tokenize,
        Self::ReadModel,
        Self::UseTool,
        Self::SearchCollection,
        Self::ChangeCollection,
        Self::ReadStored,
        Self::WriteStored,
        Self::DeleteStored,
        Self::ReadStatus,
        Self::ReadAdministration,
        Self::ChangeAdministration,
        Self::GrantRole,
        Self::GrantAttribute,
    ];

    /// As policies have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Tokenize => "tokenize",
            Self::ReadModel => "readModel",
            Self::UseTool => "useTool",
            Self::SearchCollection => "searchCollection",
            Self::ChangeCollection => "changeCollection",
            Self::ReadStored => "readStored",
            Self::WriteStored => "writeStored",
            Self::DeleteStored => "deleteStored",
            Self::ReadStatus => "readStatus",
            Self::ReadAdministration => "readAdministration",
            Self::ChangeAdministration => "changeAdministration",
            Self::GrantRole => "grantRole",
            Self::GrantAttribute => "grantAttribute",
        }
    }

    /// Kinds of things that it is done with; none for those that are done with something that has a name.
    pub fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::ReadStored | Self::WriteStored | Self::DeleteStored => STORED,
            Self::ReadStatus => &["server"],
            Self::ReadAdministration => READ,
            Self::ChangeAdministration => CHANGED,
            Self::Infer
            | Self::Tokenize
            | Self::ReadModel
            | Self::UseTool
            | Self::SearchCollection
            | Self::ChangeCollection
            | Self::GrantRole
            | Self::GrantAttribute => &[],
        }
    }

    /// What it is done with, by its name alone: the model, a tool, a collection, a role, an attribute (`NAME` or `NAME=VALUE`), or a
    /// kind.
    pub fn resource(self, name: &str) -> Resource<'_> {
        match self {
            Self::Infer | Self::Tokenize | Self::ReadModel => {
                Resource::Model { name, digest: "", trust: Trust::default() }
            }
            Self::UseTool => Resource::Tool(name),
            Self::SearchCollection | Self::ChangeCollection => Resource::Collection(name),
            Self::GrantRole => Resource::Role(name),
            Self::GrantAttribute => {
                let (name, value) = name.split_once('=').unwrap_or((name, ""));
                Resource::Attribute { name, value }
            }
            Self::ReadStored
            | Self::WriteStored
            | Self::DeleteStored
            | Self::ReadStatus
            | Self::ReadAdministration
            | Self::ChangeAdministration => Resource::Kind(name),
        }
    }

    /// The action that policies call so.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

const STORED: &[&str] = &["files", "batches", "responses", "conversations", "agents"];
const READ: &[&str] =
    &["keys", "tenants", "roles", "policies", "guardrails", "quotas", "usage", "audit", "subjects", "status"];
const CHANGED: &[&str] = &["keys", "tenants", "policies", "guardrails", "quotas", "subjects", "models"];

/// Who asks, as far as policies can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// Unique.
    pub id: String,
    /// For people.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// Where it is from: `key`, `token` or `certificate`.
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
    /// A tool, by its name.
    Tool(&'a str),
    /// A collection of documents, by its name.
    Collection(&'a str),
    /// A kind of thing.
    Kind(&'a str),
    /// A role that somebody is given.
    Role(&'a str),
    /// An attribute that somebody is given.
    Attribute {
        /// Its name.
        name: &'a str,
        /// Its value.
        value: &'a str,
    },
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
    tool: EntityTypeName,
    collection: EntityTypeName,
    kind: EntityTypeName,
    attribute: EntityTypeName,
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
            tool: name("Tool")?,
            collection: name("Collection")?,
            kind: name("Kind")?,
            attribute: name("Attribute")?,
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
            Resource::Tool(name) => Ok(Entity::with_uid(uid(&self.tool, name))),
            Resource::Collection(name) => Ok(Entity::with_uid(uid(&self.collection, name))),
            Resource::Kind(name) => Ok(Entity::with_uid(uid(&self.kind, name))),
            Resource::Role(name) => Ok(Entity::with_uid(uid(&self.role, name))),
            Resource::Attribute { name, value } => {
                let attributes = [("value".to_owned(), string(value))];
                Entity::new_with_tags(uid(&self.attribute, name), attributes, [], []).map_err(wrong)
            }
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
