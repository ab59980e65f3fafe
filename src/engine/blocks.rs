//! The paged KV cache as integers: which blocks are free, who holds which, and which hold a prefix that
//! may be shared. The main type is [`BlockPool`].
//!
//! Invariant: every block is exactly one of free (no content), cached (content under a hash, nobody holds
//! it, may be evicted) or held (reference count above zero, may also be under a hash). Only full blocks
//! whose keys and values have been written are published, and a block under a hash is never written again.
//! Knows nothing of tensors, sequences or scheduling.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

/// Index of a block in the pool; slot `block_id * block_size + offset` holds one token.
pub type BlockId = u32;

/// Identifies the content of a full block: its tokens and everything before them, within one salt.
///
/// SHA-256 over the parent's hash and the block's tokens, behind a byte that says what is hashed. A collision would hand one request the keys and
/// values of another, so a hash that can be attacked is not good enough here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 32]);

impl BlockHash {
    /// The parent of a sequence's first block. Sequences share blocks only under the same salt.
    pub fn root(salt: Option<&str>) -> Self {
        let mut digest = Sha256::new();
        match salt {
            None => digest.update([NO_SALT]),
            Some(salt) => {
                digest.update([SALT]);
                digest.update(salt.as_bytes());
            }
        }
        Self(digest.finalize().into())
    }

    /// The hash of the block that holds `tokens` and follows the block `self`.
    pub fn child(&self, tokens: &[u32]) -> Self {
        self.follow(&[CHILD], tokens)
    }

    /// The same of a block whose tokens from `n_prompt` on were generated, where that makes other keys and values.
    pub fn child_in_part_generated(&self, tokens: &[u32], n_prompt: usize) -> Self {
        let [a, b, c, d] = (n_prompt as u32).to_le_bytes();
        self.follow(&[GENERATED_CHILD, a, b, c, d], tokens)
    }

    fn follow(&self, kind: &[u8], tokens: &[u32]) -> Self {
        let mut digest = Sha256::new();
        digest.update(kind);
        digest.update(self.0);
        for token in tokens {
            digest.update(token.to_le_bytes());
        }
        Self(digest.finalize().into())
    }
}

/// First byte of what is hashed, so that no salt can stand for a block.
const NO_SALT: u8 = 0;
const SALT: u8 = 1;
const CHILD: u8 = 2;
const GENERATED_CHILD: u8 = 3;

/// The accounts of the block pool do not balance: a bug in the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine's state is inconsistent: {0}")]
pub struct IntegrityError(pub String);

/// How many blocks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Blocks in the pool.
    pub total: usize,
    /// Held by at least one sequence.
    pub held: usize,
    /// Reusable prefixes that nobody holds.
    pub cached: usize,
}

/// Reference-counted blocks with a prefix cache. Every operation is O(log blocks) or better.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    by_hash: HashMap<BlockHash, BlockId>,
    /// Cached blocks nobody holds, by the moment of their last release: the first is evicted first.
    evictable: BTreeMap<u64, BlockId>,
    clock: u64,
}

#[derive(Clone, Debug, Default)]
struct Block {
    ref_count: u32,
    hash: Option<BlockHash>,
    released_at: u64,
}

impl BlockPool {
    /// A pool of `num_blocks` free blocks.
    pub fn new(num_blocks: usize) -> Self {
        let last = BlockId::try_from(num_blocks).expect("block ids fit in u32");
        Self {
            blocks: vec![Block::default(); num_blocks],
            free: (0..last).rev().collect(),
            by_hash: HashMap::new(),
            evictable: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Blocks that [`Self::allocate`] could hand out now.
    pub fn available(&self) -> usize {
        self.free.len() + self.evictable.len()
    }

    /// Blocks by state.
    pub fn counts(&self) -> BlockCounts {
        let total = self.blocks.len();
        BlockCounts { total, held: total - self.available(), cached: self.evictable.len() }
    }

    /// The block published under `hash`, if it has not been evicted.
    pub fn lookup(&self, hash: &BlockHash) -> Option<BlockId> {
        self.by_hash.get(hash).copied()
    }

    /// True if somebody holds the block.
    pub fn is_held(&self, block: BlockId) -> bool {
        self.blocks[block as usize].ref_count > 0
    }

    /// How many hold the block.
    pub fn num_holders(&self, block: BlockId) -> u32 {
        self.blocks[block as usize].ref_count
    }

    /// One more holder of a block found by [`Self::lookup`].
    pub fn share(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block as usize];
        if entry.ref_count == 0 {
            self.evictable.remove(&entry.released_at);
        }
        entry.ref_count += 1;
    }

    /// A block with one holder and no content: a free one, else the cached one unused for longest.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => self.evict()?,
        };
        self.blocks[block as usize].ref_count = 1;
        Some(block)
    }

    /// One holder less. The last one leaves the block cached if it was published, else free.
    pub fn release(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block as usize];
        entry.ref_count = entry.ref_count.checked_sub(1).expect("only holders release");
        if entry.ref_count > 0 {
            return;
        }
        if entry.hash.is_some() {
            self.clock += 1;
            entry.released_at = self.clock;
            self.evictable.insert(self.clock, block);
        } else {
            self.free.push(block);
        }
    }

    /// Makes a full, written block available to others. If its content is already cached in another
    /// block, that one stays and this one remains private.
    pub fn publish(&mut self, block: BlockId, hash: BlockHash) {
        let entry = &mut self.blocks[block as usize];
        if entry.hash.is_none() && !self.by_hash.contains_key(&hash) {
            entry.hash = Some(hash);
            self.by_hash.insert(hash, block);
        }
    }

    /// The hash a block is published under.
    pub fn published(&self, block: BlockId) -> Option<BlockHash> {
        self.blocks[block as usize].hash
    }

    /// Checks every account against `uses`, all holders' blocks with repetitions.
    pub fn check_integrity(&self, uses: impl Iterator<Item = BlockId>) -> Result<(), IntegrityError> {
        let mut holders = vec![0u32; self.blocks.len()];
        for block in uses {
            let count = holders.get_mut(block as usize);
            *count.ok_or_else(|| IntegrityError(format!("block {block} does not exist")))? += 1;
        }
        let mut unheld = vec![0u32; self.blocks.len()];
        for &block in self.free.iter().chain(self.evictable.values()) {
            unheld[block as usize] += 1;
        }
        for (id, block) in self.blocks.iter().enumerate() {
            ensure(block.ref_count == holders[id], || {
                format!("block {id} counts {} holders, has {}", block.ref_count, holders[id])
            })?;
            ensure(unheld[id] == u32::from(block.ref_count == 0), || {
                format!("block {id} with {} holders is listed {} times as unheld", block.ref_count, unheld[id])
            })?;
            ensure(block.hash.is_none_or(|hash| self.by_hash.get(&hash) == Some(&(id as BlockId))), || {
                format!("block {id} has a hash that does not lead to it")
            })?;
        }
        let hashed = self.blocks.iter().filter(|block| block.hash.is_some()).count();
        ensure(hashed == self.by_hash.len(), || {
            format!("{} hashes lead to {hashed} hashed blocks", self.by_hash.len())
        })?;
        for (&released_at, &block) in &self.evictable {
            let entry = &self.blocks[block as usize];
            ensure(entry.hash.is_some() && entry.released_at == released_at, || {
                format!("block {block} is evictable without a cached content")
            })?;
        }
        ensure(self.free.iter().all(|&block| self.blocks[block as usize].hash.is_none()), || {
            "a free block has a hash".to_owned()
        })
    }

    fn evict(&mut self) -> Option<BlockId> {
        let (_, block) = self.evictable.pop_first()?;
        let hash = self.blocks[block as usize].hash.take().expect("evictable blocks have a hash");
        self.by_hash.remove(&hash);
        Some(block)
    }
}

/// `Err(what())` unless `holds`.
pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), IntegrityError> {
    if holds { Ok(()) } else { Err(IntegrityError(what())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_released_prefix_is_evicted_first() {
        let mut pool = BlockPool::new(2);
        let root = BlockHash::root(None);
        let (a, b) = (root.child(&[1]), root.child(&[2]));
        for hash in [a, b] {
            let block = pool.allocate().unwrap();
            pool.publish(block, hash);
            pool.release(block);
        }
        let block_a = pool.lookup(&a).unwrap();
        pool.share(block_a);
        pool.release(block_a);
        assert!(pool.allocate().is_some());
        assert_eq!((pool.lookup(&a), pool.lookup(&b)), (Some(block_a), None));
    }

    #[test]
    fn equal_content_is_published_once() {
        let mut pool = BlockPool::new(2);
        let hash = BlockHash::root(Some("tenant")).child(&[7, 8]);
        let (first, second) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.publish(first, hash);
        pool.publish(second, hash);
        assert_eq!(pool.lookup(&hash), Some(first));
        pool.release(second);
        assert_eq!(pool.counts(), BlockCounts { total: 2, held: 1, cached: 0 });
        pool.check_integrity([first].into_iter()).unwrap();
    }

    #[test]
    fn hashes_depend_on_salt_parent_and_tokens() {
        let mut hashes = Vec::new();
        for root in [BlockHash::root(None), BlockHash::root(Some("")), BlockHash::root(Some("a"))] {
            hashes.extend([root, root.child(&[1, 2]), root.child(&[1]).child(&[2]), root.child(&[2, 1])]);
            hashes.extend((0..2).map(|n_prompt| root.child_in_part_generated(&[1, 2], n_prompt)));
        }
        for (index, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(hash), "{index}");
        }
        // The salt that spells a parent's hash.
        assert_ne!(BlockHash([b'a'; 32]).child(&[]), BlockHash::root(Some(&"a".repeat(32))));
        assert_ne!(BlockHash([1; 32]).child(&[]), BlockHash::root(Some(&"\u{1}".repeat(31))));
    }

    #[test]
    fn a_wrong_reference_count_is_found() {
        let mut pool = BlockPool::new(3);
        let block = pool.allocate().unwrap();
        pool.check_integrity([block].into_iter()).unwrap();
        assert!(pool.check_integrity([block, block].into_iter()).is_err());
        assert!(pool.check_integrity([].into_iter()).is_err());
    }
}
