//! Who is known, as one look has found it.
//!
//! Main type: [`Roll`]. Invariant: nothing here waits, but for [`Roll::authenticate_anew`], which says so.

use std::sync::Arc;

use super::{
    DEFAULT_TENANT, Issuers, Principal, Refusal,
    believed::{Believed, Proof, ShownCertificate, Vouched},
    issuers,
    jwt::{Claims, JwtError},
    known::Known,
};

/// Keys and tenants of one moment, and whose word is taken.
pub struct Roll {
    known: Arc<Known>,
    believed: Arc<Believed>,
}

impl Roll {
    pub(super) fn new(known: Arc<Known>, believed: Arc<Believed>) -> Self {
        Self { known, believed }
    }

    /// Who presents this bearer token at `now`, in Unix seconds.
    pub fn authenticate(&self, token: &str, now: u64) -> Result<Arc<Principal>, Refusal> {
        let issuers = self.believed.issuers();
        if !issuers.has_issuers() || !issuers::is_token(token) {
            return self.known.authenticate(token, now);
        }
        self.believed(&issuers, issuers.verify(token, now))
    }

    /// Who presents a token that was refused because its key is unknown: the issuer's keys are read again, which may take its
    /// time.
    pub fn authenticate_anew(&self, token: &str, now: u64) -> Result<Arc<Principal>, Refusal> {
        let issuers = self.believed.issuers();
        self.believed(&issuers, issuers.verify_or_refresh(token, now))
    }

    /// Who the owner of a certificate is, if it is good now, whatever it was when it was shown.
    pub fn authenticate_certificate(&self, shown: &Arc<ShownCertificate>, now: u64) -> Result<Arc<Principal>, Refusal> {
        let issuers = self.believed.issuers();
        let owner = issuers.owner(&shown.identity).ok_or(Refusal::UnknownCertificate)?;
        self.believed.check(shown, now)?;
        let tenant = owner.tenant.as_deref().unwrap_or(DEFAULT_TENANT);
        let tenant = self.known.tenant(tenant).ok_or(Refusal::UnknownTenant)?;
        let proof = Proof::Certificate { shown: Arc::clone(shown), owner: owner.clone() };
        let vouched = Vouched::new(&self.believed, proof);
        Ok(Arc::new(issuers::certified(owner, shown, tenant, vouched)))
    }

    /// Is a certificate good now, whoever's it is?
    pub fn check_certificate(&self, shown: &ShownCertificate, now: u64) -> Result<(), Refusal> {
        self.believed.check(shown, now)
    }

    /// `issuers` are those by which the token was read: what they say of its issuer is held against what others say later.
    fn believed(&self, issuers: &Issuers, claims: Result<Claims, JwtError>) -> Result<Arc<Principal>, Refusal> {
        let mut claims = claims.map_err(Refusal::Token)?;
        let name = claims.tenant.take().unwrap_or_else(|| DEFAULT_TENANT.to_owned());
        let tenant = self.known.tenant(&name).ok_or(Refusal::UnknownTenant)?;
        let said = issuers.said_of(&claims.issuer).cloned();
        let said = said.ok_or(Refusal::Token(JwtError::UnknownIssuer))?;
        let (issuer, signer) = (claims.issuer.clone(), claims.signer.clone());
        let vouched = Vouched::new(&self.believed, Proof::Token { issuer, said, signer });
        Ok(Arc::new(issuers::principal(claims, name, tenant, vouched)))
    }
}
