//! The door to everything that governs: keys, tenants, policies, guardrails; to quotas too (`quota::rules`).
//!
//! [`Administration`] is what one [`Actor`] may reach of it. The HTTP interface and the command line call the same methods.
//!
//! Invariants: a caller of a tenant other than the default one reaches nothing but its own tenant and that tenant's keys;
//! nobody gives a role or an attribute that policies do not let him give; whoever changes something is still entitled to at
//! that moment, not only when his request began; every change passes [`Administration::change`] or
//! [`Administration::agreed`], which write it down first. Whether a role may read or change a kind of thing at all is asked
//! before, with the route.

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior};
use serde_json::{Value, json};

use super::{
    Act, ActKind, Actor, DEFAULT_TENANT, Governance, GovernanceError, Refusal, Source,
    key_list::{KeyFilter, KeyPage},
    keys::{self, CreatedKey, Ending, Key, NewKey},
    policy::{Action, Resource},
    tenants::{self, DeletedTenant, Tenant},
};

/// What somebody may reach. Cheap to make.
pub struct Administration<'a> {
    pub(super) governance: &'a Governance,
    actor: &'a Actor,
}

/// What an act is about.
pub(super) struct Told {
    pub(super) kind: ActKind,
    pub(super) subject: String,
    pub(super) tenant: Option<String>,
    pub(super) details: Value,
}

impl Governance {
    /// As somebody may reach it.
    pub fn administered_by<'a>(&'a self, actor: &'a Actor) -> Administration<'a> {
        Administration { governance: self, actor }
    }
}

impl Administration<'_> {
    /// The tenant that alone is reached; all, if there is none.
    pub fn only_tenant(&self) -> Option<&str> {
        match self.actor {
            Actor::CommandLine | Actor::Signal | Actor::Server => None,
            Actor::Caller { principal, .. } => {
                Some(principal.asker.tenant.as_str()).filter(|tenant| *tenant != DEFAULT_TENANT)
            }
        }
    }

    /// Fails for those who reach only their own tenant: what is asked for is the whole server's.
    pub fn whole_server(&self, what: &'static str) -> Result<(), GovernanceError> {
        match self.only_tenant() {
            None => Ok(()),
            Some(tenant) => Err(GovernanceError::OutOfReach { what, tenant: tenant.to_owned() }),
        }
    }

    /// The keys that are reached, the newest first.
    pub fn keys(&self) -> Result<Vec<Key>, GovernanceError> {
        keys::all(&self.governance.connection(), self.only_tenant())
    }

    /// A part of them.
    pub fn key_page(&self, filter: &KeyFilter, now: u64) -> Result<KeyPage, GovernanceError> {
        filter.page(self.keys()?, now)
    }

    /// The key of this id, of this beginning of an id, or of this name, if it is the only one.
    pub fn key(&self, name: &str) -> Result<Key, GovernanceError> {
        keys::find(self.keys()?, name)
    }

    /// The key of this id.
    pub fn key_of_id(&self, id: &str) -> Result<Key, GovernanceError> {
        let missing = || GovernanceError::Missing { kind: "key", name: id.to_owned() };
        self.keys()?.into_iter().find(|key| key.id == id).ok_or_else(missing)
    }

    /// A new key.
    pub fn create_key(&self, new: &NewKey, now: u64) -> Result<CreatedKey, GovernanceError> {
        keys::check(new, now)?;
        self.reaches(&new.tenant)?;
        self.may_give(new)?;
        self.change(now, |transaction| {
            let created = keys::insert(transaction, new, now)?;
            let told = told_of_key(ActKind::CreateKey, &created.key);
            Ok((created, told))
        })
    }

    /// A key in place of another, with all that is said of that, its lifetime too unless another end is given; the old one is
    /// still good for `overlap_seconds`.
    pub fn rotate_key(
        &self,
        name: &str,
        overlap_seconds: u64,
        expires_at: Option<u64>,
        now: u64,
    ) -> Result<CreatedKey, GovernanceError> {
        let old = self.key(name)?;
        let new = old.successor(expires_at, now)?;
        keys::check(&new, now)?;
        // Whoever gets its secret gets its roles.
        self.may_give(&new)?;
        self.change(now, |transaction| {
            let created = keys::insert(transaction, &new, now)?;
            keys::replace(transaction, &old.id, &created.key.id, now.saturating_add(overlap_seconds))?;
            let mut told = told_of_key(ActKind::RotateKey, &created.key);
            told.details["replaces"] = old.id.as_str().into();
            told.details["overlap_seconds"] = overlap_seconds.into();
            Ok((created, told))
        })
    }

    /// Ends a key, and what its bearers are being answered; a name's with those that it has replaced. Ending it twice is no
    /// error.
    pub fn revoke_key(&self, name: &str, now: u64) -> Result<Key, GovernanceError> {
        let key = self.key(name)?;
        self.change(now, |transaction| {
            let ending = if name == key.name { Ending::WithThoseItReplaced } else { Ending::Alone };
            let key = keys::revoke(transaction, &key.id, ending, now)?;
            let told = told_of_key(ActKind::RevokeKey, &key);
            Ok((key, told))
        })
    }

    /// The tenants that are reached, by name.
    pub fn tenants(&self) -> Result<Vec<Tenant>, GovernanceError> {
        let mut tenants = tenants::all(&self.governance.connection())?;
        if let Some(only) = self.only_tenant() {
            tenants.retain(|tenant| tenant.name == only);
        }
        Ok(tenants)
    }

    /// One of them.
    pub fn tenant(&self, name: &str) -> Result<Tenant, GovernanceError> {
        let missing = || GovernanceError::Missing { kind: "tenant", name: name.to_owned() };
        self.tenants()?.into_iter().find(|tenant| tenant.name == name).ok_or_else(missing)
    }

    /// A new tenant.
    pub fn create_tenant(&self, name: &str, share_group: Option<&str>, now: u64) -> Result<(), GovernanceError> {
        self.whole_server("making tenants")?;
        self.change(now, |transaction| {
            tenants::insert(transaction, name, share_group, now)?;
            Ok(((), told_of_tenant(ActKind::CreateTenant, name, json!({ "share_group": share_group }))))
        })
    }

    /// Has a tenant share cached prefixes with those of a group, or with nobody.
    pub fn share_tenant(&self, name: &str, group: Option<&str>, now: u64) -> Result<(), GovernanceError> {
        self.whole_server("sharing between tenants")?;
        self.change(now, |transaction| {
            tenants::share(transaction, name, group)?;
            Ok(((), told_of_tenant(ActKind::ShareTenant, name, json!({ "share_group": group }))))
        })
    }

    /// Deletes a tenant and revokes its keys. What it has stored is reached by nobody from then on; it is among
    /// [`Governance::leaving`] until somebody has erased it.
    pub fn delete_tenant(&self, name: &str, now: u64) -> Result<DeletedTenant, GovernanceError> {
        self.whole_server("deleting tenants")?;
        self.change(now, |transaction| {
            let deleted = tenants::delete(transaction, name, now)?;
            let told = told_of_tenant(ActKind::DeleteTenant, name, json!({ "keys": deleted.keys }));
            Ok((deleted, told))
        })
    }

    /// Reads policies again. If they are wrong, those from before go on to apply.
    pub fn reload_policies(&self, now: u64) -> Result<(), GovernanceError> {
        self.whole_server("policies")?;
        self.governance.policies.reload_if(|digest| {
            self.agreed(now, told_of_rules(ActKind::ReloadPolicies, digest))?;
            Ok(())
        })
    }

    /// Reads guardrails again. If they are wrong, those from before go on to apply.
    pub fn reload_guardrails(&self, now: u64) -> Result<(), GovernanceError> {
        self.whole_server("guardrails")?;
        self.governance.guardrails.reload_if(|digest| {
            self.agreed(now, told_of_rules(ActKind::ReloadGuardrails, digest))?;
            Ok(())
        })
    }

    /// Reads purposes again. If they are wrong, those from before go on to apply.
    pub fn reload_purposes(&self, now: u64) -> Result<(), GovernanceError> {
        self.whole_server("purposes")?;
        self.governance.purposes.reload_if(|digest| {
            self.agreed(now, told_of_rules(ActKind::ReloadPurposes, digest))?;
            Ok(())
        })
    }

    /// Writes down that certificates are about to be those of this digest.
    pub fn reload_certificates(&self, digest: &str, now: u64) -> Result<(), GovernanceError> {
        self.whole_server("certificates")?;
        self.agreed(now, told_of_rules(ActKind::ReloadCertificates, digest))
    }

    /// Reads the file of identities again, if there is one. If it is wrong, that from before goes on to apply.
    pub fn reload_identities(&self, now: u64) -> Result<(), GovernanceError> {
        self.whole_server("identities")?;
        self.governance.believed.reload(|digest| self.agreed(now, told_of_rules(ActKind::ReloadIdentities, digest)))
    }

    /// Changes the database in one transaction, which is written down before it counts.
    pub(super) fn change<T>(
        &self,
        now: u64,
        work: impl FnOnce(&Transaction<'_>) -> Result<(T, Told), GovernanceError>,
    ) -> Result<T, GovernanceError> {
        self.governance.change(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            self.is_entitled(&transaction, now)?;
            let (done, told) = work(&transaction)?;
            self.record(told, now)?;
            transaction.commit()?;
            Ok(done)
        })
    }

    /// Writes down what is about to be done to what is not in the database.
    pub(super) fn agreed(&self, now: u64, told: Told) -> Result<(), GovernanceError> {
        let mut connection = self.governance.connection();
        self.is_entitled(&connection.transaction()?, now)?;
        self.record(told, now)
    }

    fn record(&self, Told { kind, subject, tenant, details }: Told, now: u64) -> Result<(), GovernanceError> {
        let act = Act { kind, subject, tenant, details, by: self.actor.described(), at: now };
        self.governance.acts.record(&act).map_err(GovernanceError::Unrecorded)
    }

    /// Is the credential of whoever acts still good? It may have been revoked since the request began.
    fn is_entitled(&self, transaction: &Transaction<'_>, now: u64) -> Result<(), GovernanceError> {
        let Actor::Caller { principal, .. } = self.actor else { return Ok(()) };
        if let Some(refusal) = principal.over_at(now) {
            return Err(refusal.into());
        }
        let is_there = transaction.query_row("SELECT 1 FROM tenants WHERE id = ?1", [&principal.place.id], |_| Ok(()));
        if is_there.optional()?.is_none() {
            return Err(Refusal::UnknownTenant.into());
        }
        match principal.source {
            Source::Token | Source::Certificate => Ok(()),
            Source::Key => keys::check_good(transaction, &principal.asker.id, now),
        }
    }

    fn reaches(&self, tenant: &str) -> Result<(), GovernanceError> {
        match self.only_tenant() {
            Some(only) if only != tenant => {
                Err(GovernanceError::OutOfReach { what: "another tenant's keys", tenant: only.to_owned() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// May whoever acts give these roles and attributes to somebody?
    fn may_give(&self, new: &NewKey) -> Result<(), GovernanceError> {
        let Actor::Caller { principal, circumstances } = self.actor else { return Ok(()) };
        let ask = |action: Action, resource: Resource<'_>, given: String| {
            let decision = self.governance.decide(principal, action, resource, circumstances)?;
            if decision.allowed {
                return Ok(());
            }
            let id = principal.asker.id.clone();
            Err(GovernanceError::NotToGive { source_name: principal.source.name(), id, given })
        };
        for role in &new.roles {
            ask(Action::GrantRole, Resource::Role(role.name()), format!("the role {}", role.name()))?;
        }
        for (name, value) in &new.attributes {
            ask(Action::GrantAttribute, Resource::Attribute { name, value }, format!("the attribute {name}"))?;
        }
        Ok(())
    }
}

fn told_of_key(kind: ActKind, key: &Key) -> Told {
    let details = json!({
        "name": key.name, "roles": key.roles, "attributes": key.attributes, "expires_at": key.expires_at,
    });
    Told { kind, subject: key.id.clone(), tenant: Some(key.tenant.clone()), details }
}

fn told_of_tenant(kind: ActKind, name: &str, details: Value) -> Told {
    Told { kind, subject: name.to_owned(), tenant: Some(name.to_owned()), details }
}

fn told_of_rules(kind: ActKind, digest: &str) -> Told {
    Told { kind, subject: String::new(), tenant: None, details: json!({ "digest": digest }) }
}
