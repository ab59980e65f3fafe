//! A model without tensors for engine tests: what it answers depends on the true history of a sequence,
//! read back through its block table. A wrong block, slot, position or chunk therefore gives wrong tokens.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    task::{Context, Waker},
};

use tramontane::{
    engine::{
        EngineConfig, EngineHandle, FinishReason, Inspection, Precedence, Request, RequestStream, Snapshot, StopRules,
        Task, Update,
        sampler::{History, SampleError, distribution, token_logprobs},
    },
    model::{ForwardPass, Logits, ModelError, Pipeline},
    types::{Batch, BatchSequence, Outputs, Penalties, RowResult, SamplingParams, TokenChoice},
};

pub const VOCAB_SIZE: usize = 64;
/// A batch with one of these tokens panics, or fails.
pub const PANIC_TOKEN: u32 = 60;
pub const ERROR_TOKEN: u32 = 61;
/// After this token every logit is NaN.
pub const NAN_TOKEN: u32 = 62;
/// After this token the logits are one value short.
pub const SHORT_TOKEN: u32 = 63;
/// Below this all ids are harmless.
pub const FIRST_FAULT: u32 = 60;

/// Values of a pooled row.
pub const POOLED_WIDTH: usize = 3;

const UNWRITTEN: u32 = u32::MAX;

/// Keeps the token written to each slot.
pub struct PagedModel {
    block_size: usize,
    slots: Vec<u32>,
}

impl PagedModel {
    pub fn new(block_size: usize, num_blocks: usize) -> Self {
        Self { block_size, slots: vec![UNWRITTEN; block_size * num_blocks] }
    }

    fn history(&self, sequence: &BatchSequence, len: usize) -> Vec<u32> {
        let slot = |position: usize| {
            sequence.block_table[position / self.block_size] as usize * self.block_size + position % self.block_size
        };
        (0..len).map(|position| self.slots[slot(position)]).collect()
    }
}

impl ForwardPass for PagedModel {
    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }

    fn outputs(&self) -> Outputs {
        Outputs { logits: true, pooled_width: Some(POOLED_WIDTH) }
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        check_batch(batch);
        assert!(!batch.token_ids.contains(&PANIC_TOKEN), "the batch holds the token that panics");
        if batch.token_ids.contains(&ERROR_TOKEN) {
            return Err(ModelError::Tensor(candle_core::Error::Msg("the batch holds the token that fails".into())));
        }
        for (&slot, &token) in batch.slots.iter().zip(&batch.token_ids) {
            self.slots[slot as usize] = token;
        }
        let history = |&row: &u32| {
            let owner = batch.sequences.iter().rfind(|sequence| sequence.query_start <= row as usize);
            self.history(owner.unwrap(), batch.positions[row as usize] as usize + 1)
        };
        let values = batch.output_rows.iter().flat_map(|row| logits_after(&history(row))).collect();
        let pooled = batch.pooled_rows.iter().flat_map(|row| pooled_of(&history(row))).collect();
        Ok(Logits { values, vocab_size: VOCAB_SIZE, pooled })
    }
}

/// The model without a cache: logits in [-4, 4) from a hash of the whole history.
pub fn logits_after(history: &[u32]) -> Vec<f32> {
    if history.contains(&NAN_TOKEN) {
        return vec![f32::NAN; VOCAB_SIZE];
    }
    let n_values = VOCAB_SIZE - usize::from(history.contains(&SHORT_TOKEN));
    let hash = history.iter().fold(history.len() as u64, |hash, &token| mix(hash ^ u64::from(token)));
    let value = |id: usize| match id as u32 {
        0..FIRST_FAULT => (mix(hash ^ ((id as u64) << 32)) >> 40) as f32 / (1 << 21) as f32 - 4.0,
        // Never generated, only prompted.
        FIRST_FAULT.. => -1e4,
    };
    (0..n_values).map(value).collect()
}

/// What the same model pools a text to: its length and some of its logits.
pub fn pooled_of(text: &[u32]) -> Vec<f32> {
    let mut pooled = logits_after(text);
    pooled.truncate(POOLED_WIDTH - 1);
    pooled.push(text.len() as f32);
    pooled
}

/// splitmix64.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What [`Batch`] promises.
pub fn check_batch(batch: &Batch) {
    let n_tokens = batch.n_tokens();
    assert_eq!((batch.positions.len(), batch.slots.len()), (n_tokens, n_tokens));
    let mut end = 0;
    for sequence in &batch.sequences {
        assert_eq!(sequence.query_start, end, "query ranges tile the batch");
        assert!(sequence.query_len > 0, "an empty share");
        end += sequence.query_len;
        let positions: Vec<usize> = batch.positions[sequence.query_start..end].iter().map(|&p| p as usize).collect();
        let expected: Vec<usize> = (sequence.context_len - sequence.query_len..sequence.context_len).collect();
        assert_eq!(positions, expected);
    }
    assert_eq!(end, n_tokens);
    assert!(batch.output_rows.windows(2).all(|pair| pair[0] < pair[1]), "rows ascend");
    let mut slots = batch.slots.clone();
    slots.sort_unstable();
    assert!(slots.windows(2).all(|pair| pair[0] < pair[1]), "a slot is written twice");
}

/// Makes every forward pass wait for one message; runs freely once the sender is gone.
pub struct Gated {
    pub model: Box<dyn ForwardPass>,
    pub gate: Receiver<()>,
}

impl ForwardPass for Gated {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn outputs(&self) -> Outputs {
        self.model.outputs()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        // An error means that the sender is gone: no more waiting.
        let _ = self.gate.recv();
        self.model.forward(batch)
    }

    fn pipeline(&mut self) -> Option<&mut dyn Pipeline> {
        if self.model.pipeline().is_some() { Some(self) } else { None }
    }
}

impl Gated {
    fn inner(&mut self) -> &mut dyn Pipeline {
        self.model.pipeline().unwrap()
    }
}

impl Pipeline for Gated {
    fn can_choose(&mut self, choice: &TokenChoice<'_>) -> bool {
        self.inner().can_choose(choice)
    }

    fn start(&mut self, batch: &Batch, choices: &[Option<TokenChoice<'_>>]) -> Result<(), ModelError> {
        // As above.
        let _ = self.gate.recv();
        self.inner().start(batch, choices)
    }

    fn finish(&mut self) -> Result<Vec<RowResult>, ModelError> {
        self.inner().finish()
    }

    fn forget(&mut self, sequence: u64) {
        self.inner().forget(sequence);
    }
}

/// Turns a model into one that chooses tokens itself and whose results are read later, by the definition of the
/// sampler's stages.
pub struct Ahead {
    model: Box<dyn ForwardPass>,
    started: VecDeque<Vec<RowResult>>,
    /// Of the step that was started last, by output row.
    tokens: Vec<u32>,
    /// The last two tokens chosen for a sequence with penalties.
    recent: HashMap<u64, Vec<u32>>,
}

impl Ahead {
    pub fn new(model: Box<dyn ForwardPass>) -> Self {
        Self { model, started: VecDeque::new(), tokens: Vec::new(), recent: HashMap::new() }
    }

    fn choose(&mut self, logits: &[f32], choice: &TokenChoice<'_>) -> RowResult {
        let neutral = Penalties {
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            sequence: u64::MAX,
            prompt_ids: &[],
            output_ids: &[],
            num_unread: 0,
        };
        let penalties = choice.penalties.unwrap_or(neutral);
        let recent = self.recent.entry(penalties.sequence).or_default();
        let unread = &recent[recent.len() - penalties.num_unread..];
        let output_ids = [penalties.output_ids, unread].concat();
        let (forbidden, logit_bias): (Vec<_>, Vec<_>) = choice.biases.iter().partition(|(_, bias)| *bias < -1e30);
        let params = SamplingParams {
            temperature: choice.temperature,
            top_k: choice.top_k,
            top_p: choice.top_p,
            min_p: choice.min_p,
            repetition_penalty: penalties.repetition_penalty,
            frequency_penalty: penalties.frequency_penalty,
            presence_penalty: penalties.presence_penalty,
            allowed_token_ids: choice.allowed_token_ids.map(<[u32]>::to_vec),
            logit_bias,
            ..SamplingParams::default()
        };
        let forbidden_ids: Vec<u32> = forbidden.into_iter().map(|(id, _)| id).collect();
        let history = History {
            prompt_ids: penalties.prompt_ids,
            output_ids: &output_ids,
            forbidden_ids: &forbidden_ids,
            allowed: None,
        };
        let row = match distribution(logits, &params, &history) {
            Ok(row) => row,
            Err(SampleError::NotFinite) => return RowResult::NotFinite,
            Err(SampleError::NothingAllowed) => return RowResult::NothingAllowed,
        };
        let mut left = choice.uniform;
        let drawn = row.iter().position(|probability| {
            left -= probability;
            left < 0.0 && *probability > 0.0
        });
        let id = drawn.or(row.iter().rposition(|probability| *probability > 0.0)).unwrap() as u32;
        recent.push(id);
        RowResult::Token { id, logprobs: choice.logprobs.map(|n_top| token_logprobs(logits, id, n_top)) }
    }
}

impl ForwardPass for Ahead {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn outputs(&self) -> Outputs {
        self.model.outputs()
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        self.model.forward(batch)
    }

    fn pipeline(&mut self) -> Option<&mut dyn Pipeline> {
        Some(self)
    }
}

impl Pipeline for Ahead {
    fn can_choose(&mut self, choice: &TokenChoice<'_>) -> bool {
        choice.logprobs.is_none_or(|n_top| n_top < 3) || choice.top_k == 0
    }

    fn start(&mut self, batch: &Batch, choices: &[Option<TokenChoice<'_>>]) -> Result<(), ModelError> {
        assert!(self.started.len() < 2, "one step ahead, no further");
        let mut batch = batch.clone();
        for token in &mut batch.token_ids {
            if *token & Batch::UNREAD != 0 {
                *token = self.tokens[(*token & !Batch::UNREAD) as usize];
            }
        }
        let logits = self.model.forward(&batch)?;
        let mut results = Vec::new();
        for (row, choice) in choices.iter().enumerate() {
            results.push(match choice {
                Some(choice) => self.choose(logits.row(row), choice),
                None => RowResult::Logits(logits.row(row).to_vec()),
            });
        }
        self.tokens =
            results.iter().map(|result| if let RowResult::Token { id, .. } = result { *id } else { 0 }).collect();
        let width = logits.pooled.len() / batch.pooled_rows.len().max(1);
        results.extend(logits.pooled.chunks(width.max(1)).map(|row| RowResult::Pooled(row.to_vec())));
        self.started.push_back(results);
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<RowResult>, ModelError> {
        self.started.pop_front().ok_or(ModelError::NothingStarted)
    }

    fn forget(&mut self, sequence: u64) {
        self.recent.remove(&sequence);
    }
}

/// Greedy generation without batches, blocks or chunks.
pub fn generate(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..max_tokens {
        history.push(argmax(&logits_after(&history)));
    }
    history.split_off(prompt.len())
}

pub fn argmax(row: &[f32]) -> u32 {
    let best = (0..row.len()).reduce(|best, id| if row[id] > row[best] { id } else { best });
    best.unwrap() as u32
}

/// A greedy request that nothing but `max_tokens` ends.
pub fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        prompt_ids: prompt.to_vec(),
        task: Task::Generate,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopRules {
            max_tokens,
            min_tokens: 0,
            eos_token_ids: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
        },
        logprobs: None,
        prompt_logprobs: None,
        precedence: Precedence::Interactive,
        priority: 0,
        deadline: None,
        cache_salt: None,
        share: Default::default(),
        constraint: None,
        prediction: Vec::new(),
    }
}

/// An engine over the mock model.
pub fn spawn(config: &EngineConfig) -> EngineHandle {
    let model = PagedModel::new(config.block_size, config.num_blocks);
    EngineHandle::spawn(Box::new(model), config.clone(), Arc::default())
}

/// The same, each step waiting for a message; dropping the sender lets it run.
pub fn spawn_gated(config: &EngineConfig) -> (EngineHandle, Sender<()>) {
    let (sender, gate) = channel();
    let model = Box::new(PagedModel::new(config.block_size, config.num_blocks));
    (EngineHandle::spawn(Box::new(Gated { model, gate }), config.clone(), Arc::default()), sender)
}

/// Everything that is still to come.
pub fn read(mut stream: RequestStream) -> Vec<Update> {
    std::iter::from_fn(|| stream.blocking_next()).collect()
}

/// The tokens of some updates and how they ended.
pub fn tokens(updates: &[Update]) -> (Vec<u32>, FinishReason) {
    let Some(Update::Finished(reason)) = updates.last() else { panic!("no end: {updates:?}") };
    let ids = updates.iter().filter_map(|update| match update {
        Update::Token { id, .. } => Some(*id),
        Update::Started { .. } | Update::PromptLogprobs(_) | Update::Values(_) | Update::Finished(_) => None,
    });
    (ids.collect(), reason.clone())
}

/// The engine's own check between two steps: its accounts balance.
pub fn inspect(engine: &EngineHandle) -> Snapshot {
    answer(engine.inspect())
}

/// The same for a gated engine in the middle of a step, which this ends.
pub fn inspect_after_step(engine: &EngineHandle, gate: &Sender<()>) -> Snapshot {
    let mut inspection = Box::pin(engine.inspect());
    // The first poll sends the event, so that the engine finds it when the step is over.
    assert!(inspection.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    gate.send(()).unwrap();
    answer(inspection)
}

fn answer(inspection: impl Future<Output = Option<Inspection>>) -> Snapshot {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let inspection = runtime.block_on(inspection).expect("the engine thread runs");
    inspection.integrity.unwrap();
    inspection.snapshot
}
