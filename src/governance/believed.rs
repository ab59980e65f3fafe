//! Whose word is taken now, and what becomes of those whom it was taken for before.
//!
//! Main types: [`Believed`], which can be read again, and [`Vouched`], what a principal keeps of why it was believed. Invariant:
//! nobody is more than what the file, the authorities and the revocation lists of now make of what he has shown. Knows no TLS:
//! whether a chain is good is for a [`CertificateJudge`] to say.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{
    GovernanceError, Issuers, Refusal,
    jwt::{CertificateIdentity, JwtError, MappedIdentity, Signer, SourceError},
};
use crate::types::unix_seconds;

/// How long a chain that was found good is not verified again where nothing was read anew and no list has ended: certificates
/// between it and its authority end by their own dates too.
const GOOD_FOR_SECONDS: u64 = 10;
/// How many chains are remembered to be good.
const MOST_CHAINS: usize = 4096;

/// Says whether chains of certificates are good by the authorities, revocation lists and time of now.
pub trait CertificateJudge: Send + Sync {
    /// Is a chain, the owner's certificate first, good at `now`, in Unix seconds?
    fn judge(&self, chain: &[Vec<u8>], now: u64) -> Result<(), Refusal>;

    /// When, after `now`, the first of its lists ends by its own date, if one does.
    fn next_end(&self, now: u64) -> Option<u64>;

    /// A number that changes when what it goes by was read anew.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// A client certificate as it was shown.
#[derive(Debug)]
pub struct ShownCertificate {
    /// What it says of its owner.
    pub(super) identity: CertificateIdentity,
    chain: Vec<Vec<u8>>,
    digest: [u8; 32],
}

impl ShownCertificate {
    /// Reads a chain in DER, the owner's certificate first. It verifies nothing.
    pub fn of_chain(chain: Vec<Vec<u8>>) -> Result<Self, SourceError> {
        let identity = CertificateIdentity::from_der(chain.first().map_or(&[], Vec::as_slice))?;
        let mut digest = Sha256::new();
        chain.iter().for_each(|certificate| digest.update(Sha256::digest(certificate)));
        Ok(Self { identity, chain, digest: digest.finalize().into() })
    }

    /// In DER, the owner's certificate first.
    pub(super) fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
}

/// All whose word is taken. All principals that are here by it share one.
#[derive(Default)]
pub(super) struct Believed {
    issuers: RwLock<Arc<Issuers>>,
    judge: OnceLock<Box<dyn CertificateJudge>>,
    /// Changes when the file was read anew.
    changed: watch::Sender<u64>,
    /// Held while it is read, so that of two readings at once the later counts.
    reading: Mutex<()>,
    /// Chains that were good, by their digests.
    good: Mutex<HashMap<[u8; 32], Good>>,
}

/// When, by what, and for how long a chain was found good.
struct Good {
    at: u64,
    until: u64,
    change: u64,
}

impl Believed {
    pub(super) fn new(issuers: Issuers) -> Self {
        Self { issuers: RwLock::new(Arc::new(issuers)), ..Self::default() }
    }

    /// As they are now.
    pub(super) fn issuers(&self) -> Arc<Issuers> {
        Arc::clone(&self.issuers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who says from now on whether certificates are good. The first counts.
    pub(super) fn set_judge(&self, judge: Box<dyn CertificateJudge>) {
        drop(self.judge.set(judge));
    }

    /// Reads the file again. Whoever is not what he was by the old one learns it. `agreed` is told its digest before it counts.
    pub(super) fn reload(
        &self,
        agreed: impl FnOnce(&str) -> Result<(), GovernanceError>,
    ) -> Result<(), GovernanceError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(read) = self.issuers().read_again()? else { return Ok(()) };
        if read.knows_certificates() && self.judge.get().is_none() {
            return Err(
                read.wrong("client_certificates cannot be shown to a server that was started without tls_client_ca")
            );
        }
        agreed(read.digest())?;
        *self.issuers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        self.changed.send_modify(|change| *change += 1);
        Ok(())
    }

    /// Is a certificate good at `now`? Mostly this is a look into a map.
    pub(super) fn check(&self, shown: &ShownCertificate, now: u64) -> Result<(), Refusal> {
        if shown.identity.not_after <= now {
            return Err(Refusal::Expired);
        }
        let judge = self.judge.get().ok_or(Refusal::UnverifiedCertificate)?;
        let change = *judge.changes().borrow();
        let is_fresh = |good: &Good| good.change == change && (good.at..good.until).contains(&now);
        if self.good().get(&shown.digest).is_some_and(is_fresh) {
            return Ok(());
        }
        let judged = judge.judge(&shown.chain, now);
        let mut good = self.good();
        match judged {
            Ok(()) => {
                if good.len() >= MOST_CHAINS {
                    good.retain(|_, good| is_fresh(good));
                }
                if good.len() < MOST_CHAINS {
                    good.insert(shown.digest, Good { at: now, until: judge_again_at(judge.as_ref(), now), change });
                }
            }
            Err(_) => drop(good.remove(&shown.digest)),
        }
        judged
    }

    fn good(&self) -> MutexGuard<'_, HashMap<[u8; 32], Good>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why somebody is believed to be who he is.
#[derive(Clone)]
pub(super) struct Vouched {
    believed: Arc<Believed>,
    proof: Proof,
}

/// What was shown, and what was made of it.
#[derive(Clone)]
pub(super) enum Proof {
    /// A token of an issuer, of which the file has said this, and which of its keys has signed it.
    Token { issuer: String, said: Arc<str>, signer: Signer },
    /// A certificate, and what the file has said of its owner.
    Certificate { shown: Arc<ShownCertificate>, owner: MappedIdentity },
}

impl Vouched {
    pub(super) fn new(believed: &Arc<Believed>, proof: Proof) -> Self {
        Self { believed: Arc::clone(believed), proof }
    }

    pub(super) fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Why what was made of it would not be made of it at `now`.
    pub(super) fn refusal(&self, now: u64) -> Option<Refusal> {
        let issuers = self.believed.issuers();
        match &self.proof {
            Proof::Token { issuer, said, signer } => match issuers.said_of(issuer) {
                None => Some(Refusal::Token(JwtError::UnknownIssuer)),
                Some(now) if now != said => Some(Refusal::Withdrawn),
                Some(_) => issuers.has_withdrawn(issuer, signer).then_some(Refusal::Token(JwtError::UnknownKey)),
            },
            Proof::Certificate { shown, owner } => match issuers.owner(&shown.identity) {
                None => Some(Refusal::UnknownCertificate),
                Some(now) if now != owner => Some(Refusal::Withdrawn),
                Some(_) => self.believed.check(shown, now).err(),
            },
        }
    }

    /// Resolves when that is so.
    pub(super) async fn until_refused(&self) -> Refusal {
        let mut changed = self.believed.changed.subscribe();
        loop {
            changed.mark_unchanged();
            // What changes after this is seen by it, what has changed before is seen by the question.
            let judged_anew = self.judged_anew();
            if let Some(refusal) = self.refusal(unix_seconds()) {
                return refusal;
            }
            tokio::select! {
                _ = changed.changed() => {} // this holds its sender
                () = judged_anew => {}
            }
        }
    }

    /// Resolves when, beside the file, what it is judged by has changed: an issuer's keys, or authorities and lists.
    fn judged_anew(&self) -> impl Future<Output = ()> + use<> {
        let (changes, pause) = match &self.proof {
            Proof::Token { issuer, .. } => (self.believed.issuers().key_changes(issuer), None),
            Proof::Certificate { .. } => {
                let (judge, now) = (self.believed.judge.get(), unix_seconds());
                let pause = judge.map(|judge| Duration::from_secs(judge_again_at(judge.as_ref(), now) - now));
                (judge.map(|judge| judge.changes()), pause)
            }
        };
        async move {
            tokio::select! {
                () = changed(changes) => {}
                () = passed(pause) => {}
            }
        }
    }
}

/// When a chain that is good at `now` is verified again.
fn judge_again_at(judge: &dyn CertificateJudge, now: u64) -> u64 {
    let latest = now.saturating_add(GOOD_FOR_SECONDS);
    judge.next_end(now).map_or(latest, |end| end.min(latest))
}

/// Never, if nobody can change it any more.
async fn changed(changes: Option<watch::Receiver<u64>>) {
    if let Some(mut changes) = changes
        && changes.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn passed(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// What was shown is not shown.
impl fmt::Debug for Vouched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Vouched").finish_non_exhaustive()
    }
}
