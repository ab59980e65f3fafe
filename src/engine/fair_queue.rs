//! Whose turn it is: what the engine computes is shared evenly among those who wait for it.
//!
//! [`FairQueue`] counts, for each share (a tenant), the tokens that have been planned for it while others were there as
//! well. The next sequence to be admitted is one of the share that has had the least, which is start-time fair queueing
//! with a sequence's tokens as its cost, counted as they are computed rather than guessed when it arrives. A share that
//! comes back begins where the least served of the others is: nobody saves up turns, and nobody pays for having used
//! what nobody else wanted.
//!
//! Invariant: a share is known here as long as it has sequences, and no longer. While there is one, nothing is counted.
//! It knows nothing of blocks, plans or time.

use std::{collections::BTreeMap, sync::Arc};

/// Shares that have sequences, waiting or running.
#[derive(Debug, Default)]
pub struct FairQueue {
    accounts: BTreeMap<Arc<str>, Account>,
}

#[derive(Debug, Default)]
struct Account {
    sequences: usize,
    /// Tokens, from where it began.
    served: u64,
}

impl FairQueue {
    /// A share has one more sequence.
    pub fn join(&mut self, share: &Arc<str>) {
        if let Some(account) = self.accounts.get_mut(share) {
            account.sequences += 1;
            return;
        }
        let served = self.accounts.values().map(|account| account.served).min().unwrap_or(0);
        self.accounts.insert(Arc::clone(share), Account { sequences: 1, served });
    }

    /// A share has one less.
    pub fn leave(&mut self, share: &Arc<str>) {
        let Some(account) = self.accounts.get_mut(share) else { return };
        account.sequences -= 1;
        if account.sequences == 0 {
            self.accounts.remove(share);
        }
    }

    /// Tokens are computed for a share.
    pub fn charge(&mut self, share: &Arc<str>, tokens: usize) {
        if let Some(account) = self.accounts.get_mut(share) {
            account.served += tokens as u64;
        }
    }

    /// What a share has had; the least goes first.
    pub fn served(&self, share: &Arc<str>) -> u64 {
        self.accounts.get(share).map_or(0, |account| account.served)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Is there nobody?
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Sequences of all shares.
    pub fn num_sequences(&self) -> usize {
        self.accounts.values().map(|account| account.sequences).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_begins_where_the_least_served_is() {
        let [a, b] = ["a", "b"].map(Arc::from);
        let mut queue = FairQueue::default();
        queue.join(&a);
        queue.charge(&a, 100);
        queue.join(&b);
        assert_eq!(queue.served(&b), 100);
        queue.charge(&b, 5);
        queue.leave(&b);
        queue.join(&b);
        assert_eq!((queue.served(&a), queue.served(&b), queue.len()), (100, 100, 2));
        queue.leave(&a);
        queue.leave(&b);
        assert!(queue.is_empty());
    }
}
