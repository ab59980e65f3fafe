//! Where the keys and values of a ragged batch live: slots to write, block tables to read. Checked once
//! per forward pass, so that no kernel can be led outside the cache; a device backend uploads it once.

/// Size of the paged cache of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGeometry {
    /// Blocks in the cache.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
}

/// One sequence of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedSequence {
    /// First of its query rows.
    pub query_start: usize,
    /// Number of its query rows, which are the last of its positions.
    pub query_len: usize,
    /// Positions in the cache once the batch's keys and values are written.
    pub context_len: usize,
    /// Blocks that hold positions `0..context_len`, in order.
    pub block_table: Vec<u32>,
}

impl PagedSequence {
    /// Position of this sequence's query `index`.
    pub fn position(&self, index: usize) -> usize {
        self.context_len - self.query_len + index
    }
}

/// A ragged batch whose every slot and block lies inside the cache, and whose slots are the ones that
/// its block tables name.
#[derive(Clone, Debug)]
pub struct PagedBatch {
    slots: Vec<u32>,
    sequences: Vec<PagedSequence>,
    geometry: KvGeometry,
}

/// Why a batch does not fit the cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PagedBatchError {
    /// The query ranges do not tile the tokens in order.
    #[error(
        "sequence {sequence} has query rows {query_start}..+{query_len}, expected them to begin at {expected} of {n_tokens}"
    )]
    QueryRange {
        /// Index of the sequence; the number of sequences if tokens are left over at the end.
        sequence: usize,
        /// Where its queries begin.
        query_start: usize,
        /// How many there are.
        query_len: usize,
        /// Where they should begin.
        expected: usize,
        /// Tokens in the batch.
        n_tokens: usize,
    },
    /// Fewer positions than query tokens.
    #[error("sequence {sequence} has {query_len} query tokens but a context of {context_len}")]
    Context {
        /// Index of the sequence.
        sequence: usize,
        /// Its query tokens.
        query_len: usize,
        /// Its positions.
        context_len: usize,
    },
    /// The block table does not reach the end of the context.
    #[error("sequence {sequence} has {blocks} blocks of {block_size} tokens for a context of {context_len}")]
    BlockTable {
        /// Index of the sequence.
        sequence: usize,
        /// Entries of its block table.
        blocks: usize,
        /// Tokens per block.
        block_size: usize,
        /// Its positions.
        context_len: usize,
    },
    /// A block that the cache does not have.
    #[error("sequence {sequence} names block {block} of a cache of {num_blocks}")]
    Block {
        /// Index of the sequence.
        sequence: usize,
        /// The block.
        block: u32,
        /// Blocks in the cache.
        num_blocks: usize,
    },
    /// A slot that is not where the block table puts the token's position.
    #[error("token {token} is to be written to slot {slot}, but its block table says {expected}")]
    Slot {
        /// Row of the token.
        token: usize,
        /// Its slot.
        slot: u32,
        /// The slot of its position.
        expected: usize,
    },
}

impl PagedBatch {
    /// Checks `slots (n_tokens)` and `sequences` against the cache.
    pub fn new(slots: Vec<u32>, sequences: Vec<PagedSequence>, geometry: KvGeometry) -> Result<Self, PagedBatchError> {
        let n_tokens = slots.len();
        let mut expected = 0;
        for (index, sequence) in sequences.iter().enumerate() {
            let &PagedSequence { query_start, query_len, .. } = sequence;
            if query_start != expected || query_len > n_tokens - expected {
                return Err(PagedBatchError::QueryRange {
                    sequence: index,
                    query_start,
                    query_len,
                    expected,
                    n_tokens,
                });
            }
            check_blocks(index, sequence, geometry)?;
            check_slots(sequence, &slots, geometry)?;
            expected += query_len;
        }
        if expected != n_tokens {
            let (sequence, query_start, query_len) = (sequences.len(), n_tokens, 0);
            return Err(PagedBatchError::QueryRange { sequence, query_start, query_len, expected, n_tokens });
        }
        Ok(Self { slots, sequences, geometry })
    }

    /// Number of query tokens.
    pub fn n_tokens(&self) -> usize {
        self.slots.len()
    }

    /// Where each token's key and value go, `(n_tokens)`.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// The sequences in the order of their tokens.
    pub fn sequences(&self) -> &[PagedSequence] {
        &self.sequences
    }

    /// The cache that the batch was checked against.
    pub fn geometry(&self) -> KvGeometry {
        self.geometry
    }
}

fn check_blocks(index: usize, sequence: &PagedSequence, geometry: KvGeometry) -> Result<(), PagedBatchError> {
    let &PagedSequence { query_len, context_len, ref block_table, .. } = sequence;
    if context_len < query_len {
        return Err(PagedBatchError::Context { sequence: index, query_len, context_len });
    }
    if block_table.len().saturating_mul(geometry.block_size) < context_len {
        return Err(PagedBatchError::BlockTable {
            sequence: index,
            blocks: block_table.len(),
            block_size: geometry.block_size,
            context_len,
        });
    }
    match block_table.iter().find(|&&block| block as usize >= geometry.num_blocks) {
        Some(&block) => Err(PagedBatchError::Block { sequence: index, block, num_blocks: geometry.num_blocks }),
        None => Ok(()),
    }
}

fn check_slots(sequence: &PagedSequence, slots: &[u32], geometry: KvGeometry) -> Result<(), PagedBatchError> {
    for index in 0..sequence.query_len {
        let token = sequence.query_start + index;
        let position = sequence.position(index);
        let block = sequence.block_table[position / geometry.block_size] as usize;
        let expected = block * geometry.block_size + position % geometry.block_size;
        if slots[token] as usize != expected {
            return Err(PagedBatchError::Slot { token, slot: slots[token], expected });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(query_start: usize, query_len: usize, context_len: usize, block_table: &[u32]) -> PagedSequence {
        PagedSequence { query_start, query_len, context_len, block_table: block_table.to_vec() }
    }

    fn check(slots: &[u32], sequences: &[PagedSequence], expected: &str) {
        let geometry = KvGeometry { num_blocks: 4, block_size: 2 };
        let found = match PagedBatch::new(slots.to_vec(), sequences.to_vec(), geometry) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn accepts_a_mixed_batch() {
        check(
            &[7, 4, 3],
            &[sequence(0, 2, 3, &[0, 2]), sequence(2, 1, 2, &[1])],
            "token 0 is to be written to slot 7, but its block table says 1",
        );
        check(&[1, 4, 3], &[sequence(0, 2, 3, &[0, 2]), sequence(2, 1, 2, &[1])], "");
        check(&[], &[], "");
    }

    #[test]
    fn refuses_what_leaves_the_cache() {
        check(&[0], &[sequence(0, 1, 1, &[4])], "sequence 0 names block 4 of a cache of 4");
        check(&[0], &[sequence(0, 1, 3, &[0])], "sequence 0 has 1 blocks of 2 tokens for a context of 3");
        check(&[0], &[sequence(0, 1, 0, &[0])], "sequence 0 has 1 query tokens but a context of 0");
        check(&[0], &[sequence(1, 1, 1, &[0])], "sequence 0 has query rows 1..+1, expected them to begin at 0 of 1");
        check(&[0], &[sequence(0, 2, 2, &[0])], "sequence 0 has query rows 0..+2, expected them to begin at 0 of 1");
        check(&[0, 1], &[sequence(0, 1, 1, &[0])], "sequence 1 has query rows 2..+0, expected them to begin at 1 of 2");
    }
}
