//! One sequence as the scheduler sees it: tokens, how many of them have keys and values, and where those lie.
//! Invariant: `num_computed < num_tokens()` while it runs and does not end, and the block table covers `num_computed`.
//! Drafted tokens, which exist within a step alone, count as neither. Knows nothing of sampling, streams or time.

use std::sync::Arc;

use super::blocks::{BlockHash, BlockId};

/// Does somebody wait for the answer?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precedence {
    /// A client does.
    #[default]
    Interactive,
    /// Nobody: it gives way, whatever its priority, even while it runs.
    Background,
}

impl Precedence {
    /// Each of them, in the order in which they are served.
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Background];
}

/// Identity and place in line: the smaller key is scheduled first and preempted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceKey {
    /// All of one before any of the next.
    pub precedence: Precedence,
    /// Lower values go first.
    pub priority: i32,
    /// Number of the request in order of arrival; unique.
    pub arrival: u64,
}

/// Whose a sequence is, and what it wants of the prefix cache and of its prompt's logits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceOptions {
    /// Share cached prefixes only within this salt.
    pub cache_salt: Option<String>,
    /// Whose it is: what the engine has is shared evenly among these.
    pub share: Arc<str>,
    /// The logits of every prompt token are wanted, so none may come from the cache.
    pub prompt_rows: bool,
    /// The prompt's last token is pooled, rather than that another is chosen after it.
    pub pooled: bool,
    /// Generated tokens have other keys and values than the same tokens in a prompt: see
    /// [`ForwardPass::tells_generated_tokens_apart`](crate::model::ForwardPass::tells_generated_tokens_apart).
    pub generated_apart: bool,
}

/// What a step that has been started leads to for a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// More of its tokens are to be computed before one can be chosen.
    Prefill,
    /// The token of this output row, and perhaps further ones.
    Token(u32),
    /// The token of this output row, which is its last.
    LastToken(u32),
    /// Its end: no token is wanted.
    End,
}

/// A prompt and what has been generated after it.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Prompt, output, and the drafted tokens at the end.
    tokens: Vec<u32>,
    num_drafted: usize,
    prompt_len: usize,
    share: Arc<str>,
    generated_apart: bool,
    pooled: bool,
    /// Further tokens that have been generated, but not read.
    num_unread: usize,
    /// Output row of the last of them, in the step that was started last.
    unread_row: u32,
    /// Nothing more is to be computed.
    ends: bool,
    pub(super) num_computed: usize,
    pub(super) block_table: Vec<BlockId>,
    root: BlockHash,
    /// Of the full blocks of `tokens`, as far as they have been asked for.
    hashes: Vec<BlockHash>,
    /// `Some(n)`: prompt rows are wanted, the first n of them have been computed.
    prompt_rows_done: Option<usize>,
}

impl Sequence {
    /// A sequence of which nothing has been computed.
    pub fn new(prompt: Vec<u32>, options: &SequenceOptions) -> Self {
        Self {
            prompt_len: prompt.len(),
            share: Arc::clone(&options.share),
            tokens: prompt,
            num_drafted: 0,
            num_unread: 0,
            unread_row: 0,
            ends: false,
            num_computed: 0,
            block_table: Vec::new(),
            root: BlockHash::root(options.cache_salt.as_deref()),
            generated_apart: options.generated_apart,
            pooled: options.pooled,
            hashes: Vec::new(),
            prompt_rows_done: options.prompt_rows.then_some(0),
        }
    }

    /// Whose it is.
    pub fn share(&self) -> &Arc<str> {
        &self.share
    }

    /// Prompt and generated tokens, as far as they have been read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - self.num_drafted]
    }

    /// The same, and behind them what has been drafted.
    pub fn tokens_and_draft(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that this step computes on the guess that they come next.
    pub fn draft(&self) -> &[u32] {
        &self.tokens[self.tokens.len() - self.num_drafted..]
    }

    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_len]
    }

    /// What has been generated and read.
    pub fn output(&self) -> &[u32] {
        self.output_if(0)
    }

    /// The same if the first `n_drafted` tokens of the draft have come.
    pub fn output_if(&self, n_drafted: usize) -> &[u32] {
        &self.tokens[self.prompt_len..self.tokens().len() + n_drafted]
    }

    /// Number of tokens, with those that are unread.
    pub fn num_tokens(&self) -> usize {
        self.tokens().len() + self.num_unread
    }

    /// How many of them are unread.
    pub fn num_unread(&self) -> usize {
        self.num_unread
    }

    /// The output row of the step that was started last which chose the last token, if that is unread.
    pub fn unread_row(&self) -> Option<u32> {
        (self.num_unread > 0).then_some(self.unread_row)
    }

    /// True if no further step is to compute anything of it.
    pub fn ends(&self) -> bool {
        self.ends
    }

    /// Tokens whose keys and values exist, or are being computed.
    pub fn num_computed(&self) -> usize {
        self.num_computed
    }

    /// Blocks that hold the computed tokens, in order, and room for the next ones.
    pub fn block_table(&self) -> &[BlockId] {
        &self.block_table
    }

    /// Tokens that must be computed before the next one can be sampled, at least 1.
    pub fn num_pending(&self) -> usize {
        self.num_tokens() - self.num_computed
    }

    /// True if the logits of every prompt token are wanted.
    pub fn wants_prompt_rows(&self) -> bool {
        self.prompt_rows_done.is_some()
    }

    /// True if its last token is pooled.
    pub fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Positions in the next `query_len` tokens whose logits predict a prompt token that was asked for.
    /// The last prompt token predicts the output and is not among them.
    pub fn prompt_rows(&self, query_len: usize) -> std::ops::Range<usize> {
        let Some(done) = self.prompt_rows_done else { return 0..0 };
        let start = self.num_computed.max(done);
        let end = (self.num_computed + query_len).min(self.prompt_len - 1);
        start..end.max(start)
    }

    /// The hash of full block `index`, computed on first use.
    pub(super) fn block_hash(&mut self, index: usize, block_size: usize) -> BlockHash {
        while self.hashes.len() <= index {
            let start = self.hashes.len() * block_size;
            let parent = self.hashes.last().unwrap_or(&self.root);
            let tokens = &self.tokens()[start..start + block_size];
            let n_prompt = self.prompt_len.saturating_sub(start);
            let hash = match self.generated_apart && n_prompt < block_size {
                false => parent.child(tokens),
                true => parent.child_in_part_generated(tokens, n_prompt),
            };
            self.hashes.push(hash);
        }
        self.hashes[index]
    }

    /// The hash of block `index` if it has been asked for.
    pub(super) fn known_hash(&self, index: usize) -> Option<BlockHash> {
        self.hashes.get(index).copied()
    }

    /// The next `query_len` tokens are being computed.
    pub(super) fn advance(&mut self, query_len: usize, outlook: Outlook) {
        let end = self.prompt_rows(query_len).end;
        self.prompt_rows_done = self.prompt_rows_done.map(|done| done.max(end));
        self.num_computed += query_len;
        if let Outlook::Token(row) | Outlook::LastToken(row) = outlook {
            self.num_unread += 1;
            self.unread_row = row;
        }
        self.ends = matches!(outlook, Outlook::LastToken(_) | Outlook::End);
    }

    /// The first of the tokens that are unread is this one.
    pub(super) fn read(&mut self, token: u32) {
        self.num_unread -= 1;
        self.tokens.push(token);
    }

    /// One more token has been chosen; the one before, which was drafted, has been computed.
    pub(super) fn read_further(&mut self, token: u32) {
        self.num_computed += 1;
        self.tokens.push(token);
    }

    /// The next step guesses that these come next.
    pub(super) fn set_draft(&mut self, tokens: &[u32]) {
        debug_assert_eq!(self.num_unread, 0, "what follows an unread token cannot be drafted");
        self.clear_draft();
        self.tokens.extend_from_slice(tokens);
        self.num_drafted = tokens.len();
    }

    pub(super) fn clear_draft(&mut self) {
        self.tokens.truncate(self.tokens.len() - self.num_drafted);
        self.num_drafted = 0;
    }
}
