//! Who asked for something that is done later, and whether they still may.
//!
//! Main type: [`Standing`], what is kept of a [`Principal`] with what it asked for. Invariant: nobody gets back by it what a
//! look at the keys and tenants of now would refuse. Knows nothing of what was asked for.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    Governance, GovernanceError, Principal, Refusal, ShownCertificate, Source,
    believed::{Proof, Vouched},
    jwt::{JwtError, Signer},
    policy::Asker,
};

/// A principal as it was when it asked. It holds no credential: a certificate is none without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    source: Source,
    /// Of the key, or of the issuer and the subject.
    id: String,
    name: String,
    tenant: String,
    /// Where its tenant's data was: another tenant of the same name has another place.
    place: String,
    roles: Vec<String>,
    attributes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<Kept>,
}

/// What is kept of why it was believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Kept {
    /// The issuer of a token, a digest of what the file said of it, and which of its keys has signed the token.
    Token { issuer: String, said: String, signer: Signer },
    /// The chain of a certificate, in base64.
    Certificate { chain: Vec<String> },
}

impl Principal {
    /// What is kept of it.
    pub fn standing(&self) -> Standing {
        let Asker { id, name, tenant, roles, attributes, .. } = self.asker.clone();
        let proof = self.vouched.as_ref().map(|vouched| match vouched.proof() {
            Proof::Token { issuer, said, signer } => {
                Kept::Token { issuer: issuer.clone(), said: said.to_string(), signer: signer.clone() }
            }
            Proof::Certificate { shown, .. } => Kept::Certificate {
                chain: shown.chain().iter().map(|certificate| STANDARD.encode(certificate)).collect(),
            },
        });
        Standing { source: self.source, id, name, tenant, place: self.place.id.clone(), roles, attributes, proof }
    }
}

impl Governance {
    /// Whose standing it is, at `now` in Unix seconds. Of a key what is said of it now counts, and of one that was replaced
    /// what is said of the one that replaced it; of a certificate what is made of it now, as if it were shown again. A token's
    /// own time does not matter any more, but what is said of its issuer must be what it was, and its key one of the issuer's:
    /// its claims are not kept, so nobody could say what else would be made of them.
    pub fn recognise(&self, standing: &Standing, now: u64) -> Result<Arc<Principal>, GovernanceError> {
        let known = self.look()?;
        let principal = match (standing.source, &standing.proof) {
            (Source::Key, _) => known.standing_of(&standing.id, now)?,
            (Source::Certificate, Some(Kept::Certificate { chain })) => {
                let shown = shown_again(chain).ok_or(Refusal::UnknownCertificate)?;
                self.roll().authenticate_certificate(&Arc::new(shown), now)?
            }
            (Source::Token, Some(Kept::Token { issuer, said, signer })) => {
                let (issuer, said) = (issuer.clone(), said.as_str().into());
                self.believed_again(standing, Proof::Token { issuer, said, signer: signer.clone() }, now)?
            }
            (Source::Certificate, _) => return Err(Refusal::UnknownCertificate.into()),
            (Source::Token, _) => return Err(Refusal::Token(JwtError::UnknownIssuer).into()),
        };
        if principal.place.id != standing.place {
            return Err(Refusal::UnknownTenant.into());
        }
        Ok(principal)
    }

    fn believed_again(&self, standing: &Standing, proof: Proof, now: u64) -> Result<Arc<Principal>, Refusal> {
        let vouched = Vouched::new(&self.believed, proof);
        if let Some(refusal) = vouched.refusal(now) {
            return Err(refusal);
        }
        let known = self.known();
        let tenant = known.tenant(&standing.tenant).ok_or(Refusal::UnknownTenant)?;
        let (_, over) = tokio::sync::watch::channel(None);
        Ok(Arc::new(Principal {
            asker: standing.asker(),
            source: standing.source,
            place: tenant.place.clone(),
            over,
            tenant_gone: tenant.gone.subscribe(),
            vouched: Some(vouched),
        }))
    }
}

fn shown_again(chain: &[String]) -> Option<ShownCertificate> {
    let chain = chain.iter().map(|certificate| STANDARD.decode(certificate)).collect::<Result<_, _>>().ok()?;
    ShownCertificate::of_chain(chain).ok()
}

impl Standing {
    fn asker(&self) -> Asker {
        let Self { source, id, name, tenant, roles, attributes, .. } = self.clone();
        Asker { id, name, tenant, source: source.name().to_owned(), roles, attributes }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::governance::{CreatedKey, NewKey, Role, tests::command_line};

    const NOW: u64 = 1_800_000_000;

    fn key(governance: &Governance, tenant: &str, expires_at: Option<u64>) -> CreatedKey {
        let roles = BTreeSet::from([Role::Service]);
        let new = NewKey {
            name: "app".to_owned(),
            tenant: tenant.to_owned(),
            roles,
            attributes: BTreeMap::new(),
            expires_at,
        };
        command_line(governance).create_key(&new, NOW).expect("it is made")
    }

    fn standing(governance: &Governance, key: &CreatedKey) -> Standing {
        let standing = governance.authenticate(&key.secret, NOW).expect("it is good").standing();
        let text = serde_json::to_string(&standing).expect("JSON");
        assert!(!text.contains(&key.secret), "{text}");
        serde_json::from_str(&text).expect("the same")
    }

    fn refused(governance: &Governance, standing: &Standing, now: u64) -> Option<String> {
        governance.recognise(standing, now).err().map(|error| error.to_string())
    }

    #[test]
    fn a_key_counts_as_it_is_now() {
        let governance = Governance::in_memory().expect("memory");
        let ours = key(&governance, "default", Some(NOW + 100));
        let standing = standing(&governance, &ours);
        let principal = governance.recognise(&standing, NOW).expect("it is good");
        assert_eq!((&principal.asker.id, &principal.asker.roles), (&ours.key.id, &vec!["service".to_owned()]));
        assert_eq!(
            refused(&governance, &standing, NOW + 100).as_deref(),
            Some("the API key, token or certificate has expired")
        );
        command_line(&governance).revoke_key(&ours.key.id, NOW).expect("it is there");
        assert_eq!(refused(&governance, &standing, NOW).as_deref(), Some("the API key was revoked"));
    }

    #[test]
    fn the_key_that_replaced_another_stands_for_it() {
        let governance = Governance::in_memory().expect("memory");
        let old = key(&governance, "default", None);
        let standing = standing(&governance, &old);
        let new = command_line(&governance).rotate_key(&old.key.id, 10, Some(NOW + 100), NOW).expect("it is replaced");
        let principal = governance.recognise(&standing, NOW + 50).expect("the new one is good");
        assert_eq!(principal.asker.id, new.key.id);
        assert_eq!(
            refused(&governance, &standing, NOW + 100).as_deref(),
            Some("the API key, token or certificate has expired")
        );
        command_line(&governance).revoke_key(&old.key.id, NOW).expect("it is there");
        assert_eq!(refused(&governance, &standing, NOW).as_deref(), Some("the API key was revoked"));
    }

    #[test]
    fn another_tenant_of_the_same_name_is_another() {
        let governance = Governance::in_memory().expect("memory");
        command_line(&governance).create_tenant("acme", None, NOW).expect("it is made");
        let place = governance.place("acme").expect("memory").expect("it is there").id;
        let of_token = |issuer: &str| Standing {
            source: Source::Token,
            id: format!("{issuer}#ada"),
            name: "ada".to_owned(),
            tenant: "acme".to_owned(),
            place: place.clone(),
            roles: vec!["service".to_owned()],
            attributes: BTreeMap::new(),
            proof: Some(Kept::Token {
                issuer: issuer.to_owned(),
                said: "something".to_owned(),
                signer: serde_json::from_str(r#"{"algorithm":"ES256","key_id":null,"fingerprint":""}"#).expect("JSON"),
            }),
        };
        let of_certificate = Standing { source: Source::Certificate, ..of_token("a") };
        assert_eq!(refused(&governance, &of_certificate, NOW), Some(Refusal::UnknownCertificate.to_string()));
        let error = refused(&governance, &of_token("https://other.example"), NOW);
        assert_eq!(error, Some(JwtError::UnknownIssuer.to_string()));
        let ours = key(&governance, "acme", None);
        let of_key = standing(&governance, &ours);
        assert_eq!(of_key.place, place);
        let elsewhere = Standing { place: "of another".to_owned(), ..of_key.clone() };
        assert_eq!(refused(&governance, &elsewhere, NOW), Some(Refusal::UnknownTenant.to_string()));
        command_line(&governance).revoke_key(&ours.key.id, NOW).expect("it is there");
        command_line(&governance).delete_tenant("acme", NOW).expect("it is empty");
        command_line(&governance).create_tenant("acme", None, NOW).expect("it is made");
        assert_eq!(refused(&governance, &of_key, NOW).as_deref(), Some("the API key was revoked"));
    }
}
