//! How much memory the keys and values get: pure arithmetic over what the model needs and the machine has.
//! What does not fit is refused here, with the numbers, before anything is loaded.

use super::machine::Memory;
use crate::config::{ByteSize, ConfigError, ContextLength, EngineLimits, KvCache};

/// Memory that is left alone: activations, buffers, the program itself; on a GPU the driver's and recorded graphs.
const RESERVE: u64 = 256 << 20;
/// Shares of the memory left over that an automatic pool takes, as percentages: a machine has other work, a GPU
/// hardly.
const SHARED_PERCENT: u64 = 50;
const DEDICATED_PERCENT: u64 = 90;
/// An automatic pool in a machine's memory is at most this large: beyond it, say how much.
const AUTOMATIC_LIMIT: u64 = 8 << 30;
/// And at most so many blocks, since the engine keeps books on each.
const AUTOMATIC_BLOCKS: u64 = 1 << 20;

/// What the model needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Memory for the weights, in bytes.
    pub(super) weight_bytes: u64,
    /// Memory of a step's activations, in bytes, where they are planned for.
    pub(super) working_bytes: u64,
    /// The memory is a GPU's.
    pub(super) dedicated: bool,
    /// Bytes of keys and values per token.
    pub(super) kv_bytes_per_token: u64,
    /// Longest sequence that the model was made for, in tokens.
    pub(super) max_position_embeddings: usize,
}

/// What the engine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryPlan {
    /// Blocks in the pool.
    pub(super) num_blocks: usize,
    /// Longest sequence, in tokens.
    pub(super) max_model_len: usize,
    /// Memory for keys and values, in bytes.
    pub(super) kv_bytes: u64,
}

/// Decides pool and context, or says by which numbers they do not fit. Without knowledge of the machine's
/// memory only what was asked for is checked.
pub(super) fn plan(limits: &EngineLimits, needs: &Needs, memory: Option<Memory>) -> Result<MemoryPlan, ConfigError> {
    let block_bytes = needs.kv_bytes_per_token.saturating_mul(limits.block_size as u64).max(1);
    let left = left_over(needs, memory)?;
    let context = wanted_context(limits, needs)?;
    // Slots of the pool are counted in 32 bits.
    let most_blocks = (u64::from(u32::MAX) / limits.block_size as u64).min(left / block_bytes);
    let num_blocks = match limits.kv_cache {
        KvCache::Blocks(blocks) => check_pool("num_blocks", blocks as u64, most_blocks, block_bytes, left)?,
        KvCache::Memory(size) => {
            check_pool("kv_cache_memory", size.bytes() / block_bytes, most_blocks, block_bytes, left)?
        }
        KvCache::Automatic => automatic_blocks(limits, context, needs.dedicated, (most_blocks, block_bytes)),
    };
    let tokens = (num_blocks as usize).saturating_mul(limits.block_size);
    let max_model_len = match context {
        Context::Exactly(wanted) if wanted > tokens => {
            let needed = ByteSize::new((wanted as u64).saturating_mul(needs.kv_bytes_per_token)).human();
            let pool = ByteSize::new(num_blocks * block_bytes).human();
            let reason = format!(
                "one such sequence needs {needed} of keys and values; the pool of {pool} holds {tokens} tokens, \
                 and {} of memory are left for it",
                ByteSize::new(left).human()
            );
            return Err(ConfigError::Unfit { key: "max_model_len", value: wanted.to_string(), reason });
        }
        Context::Exactly(wanted) => wanted,
        Context::UpTo(most) => most.min(tokens),
    };
    Ok(MemoryPlan { num_blocks: num_blocks as usize, max_model_len, kv_bytes: num_blocks * block_bytes })
}

#[derive(Clone, Copy)]
enum Context {
    Exactly(usize),
    UpTo(usize),
}

fn wanted_context(limits: &EngineLimits, needs: &Needs) -> Result<Context, ConfigError> {
    let most = needs.max_position_embeddings;
    match limits.max_model_len {
        ContextLength::Auto => Ok(Context::UpTo(most)),
        ContextLength::Tokens(wanted) if wanted > most => {
            let reason = format!("the model was made for at most {most} tokens");
            Err(ConfigError::Unfit { key: "max_model_len", value: wanted.to_string(), reason })
        }
        ContextLength::Tokens(wanted) => Ok(Context::Exactly(wanted)),
    }
}

/// Memory for keys and values once the weights are in.
fn left_over(needs: &Needs, memory: Option<Memory>) -> Result<u64, ConfigError> {
    let Some(Memory { available, .. }) = memory else { return Ok(u64::MAX) };
    let human = |bytes| ByteSize::new(bytes).human();
    let taken = needs.weight_bytes.saturating_add(needs.working_bytes).saturating_add(RESERVE);
    available.bytes().checked_sub(taken).filter(|left| *left > 0).ok_or_else(|| ConfigError::Unfit {
        key: "model",
        value: format!("{} of weights", human(needs.weight_bytes)),
        reason: format!(
            "with {} for everything else they exceed the {} available{}",
            human(needs.working_bytes + RESERVE),
            available.human(),
            match needs.dedicated {
                true => "; a lower max_batched_tokens, max_running or max_model_len needs less",
                false => "",
            }
        ),
    })
}

/// A pool that was asked for must exist and fit.
fn check_pool(key: &'static str, blocks: u64, most: u64, block_bytes: u64, left: u64) -> Result<u64, ConfigError> {
    let human = |bytes| ByteSize::new(bytes).human();
    let value = format!("{blocks} blocks of {}", human(block_bytes));
    if blocks == 0 {
        let reason = "not even one block fits in it".into();
        return Err(ConfigError::Unfit { key, value, reason });
    }
    if blocks > most {
        let total = blocks.saturating_mul(block_bytes);
        let reason = format!("{} in all; {} of memory are left once the weights are in", human(total), human(left));
        return Err(ConfigError::Unfit { key, value, reason });
    }
    Ok(blocks)
}

/// A share of what is left, at most 8 GiB unless it is a GPU's, 2^20 blocks and what all running sequences can use at
/// full length; but at least one sequence of the length that was asked for.
fn automatic_blocks(limits: &EngineLimits, context: Context, dedicated: bool, (most, block_bytes): (u64, u64)) -> u64 {
    let (Context::Exactly(length) | Context::UpTo(length)) = context;
    let per_sequence = length.div_ceil(limits.block_size) as u64;
    let useful = per_sequence.saturating_mul(limits.max_running as u64);
    let share = match dedicated {
        false => (most * SHARED_PERCENT / 100).min(AUTOMATIC_LIMIT / block_bytes),
        true => most * DEDICATED_PERCENT / 100,
    };
    let share = share.min(AUTOMATIC_BLOCKS);
    let least = match context {
        Context::Exactly(_) => per_sequence,
        Context::UpTo(_) => 1,
    };
    useful.min(share).max(least).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Speculation, Switch};
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;
    /// Mistral 7B in bf16.
    const NEEDS: Needs = Needs {
        weight_bytes: 14_483_464_192,
        working_bytes: 0,
        dedicated: false,
        kv_bytes_per_token: 131_072,
        max_position_embeddings: 32_768,
    };

    fn limits(kv_cache: KvCache, max_model_len: ContextLength) -> EngineLimits {
        EngineLimits {
            kv_cache,
            block_size: 16,
            prefix_caching: Switch::On,
            max_model_len,
            max_running: 64,
            max_waiting: 1,
            max_batched_tokens: 1,
            speculation: Speculation::Auto,
            draft_model: None,
        }
    }

    fn with(available: u64) -> Option<Memory> {
        Some(Memory { total: ByteSize::new(available), available: ByteSize::new(available) })
    }

    #[track_caller]
    fn check_refusal(limits: &EngineLimits, memory: Option<Memory>, words: &[&str]) {
        let text = plan(limits, &NEEDS, memory).unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
    }

    #[test]
    fn automatic() {
        let auto = limits(KvCache::Automatic, ContextLength::Auto);
        let plan = |memory| super::plan(&auto, &NEEDS, memory).unwrap();
        // 22 GiB less 13.5 GiB of weights and the reserve leave 8.26 GiB: half of it is 4.13 GiB.
        let MemoryPlan { num_blocks, max_model_len, kv_bytes } = plan(with(22 * GIB));
        assert_eq!((num_blocks, max_model_len), (2114, 32_768));
        assert_eq!(kv_bytes, 2114 * 16 * 131_072);
        assert_eq!(plan(with(500 * GIB)).kv_bytes, AUTOMATIC_LIMIT);
        assert_eq!(plan(None).kv_bytes, AUTOMATIC_LIMIT);
        let small = Needs { kv_bytes_per_token: 64, max_position_embeddings: 1 << 25, ..NEEDS };
        assert_eq!(super::plan(&auto, &small, with(500 * GIB)).unwrap().num_blocks, 1 << 20);
        let gpu = Needs { dedicated: true, working_bytes: GIB, ..NEEDS };
        // 80 GiB less weights, activations and the reserve leave 65.26 GiB.
        assert_eq!(super::plan(&auto, &gpu, with(80 * GIB)).unwrap().num_blocks, 30_071);
        let tight = plan(with(14 * GIB));
        assert!(tight.max_model_len < 32_768 && tight.max_model_len == tight.num_blocks * 16, "{tight:?}");
    }

    #[test]
    fn as_asked() {
        let blocks = limits(KvCache::Blocks(100), ContextLength::Tokens(1600));
        let expected = MemoryPlan { num_blocks: 100, max_model_len: 1600, kv_bytes: 100 * 16 * 131_072 };
        assert_eq!(plan(&blocks, &NEEDS, with(20 * GIB)).unwrap(), expected);
        let memory = limits(KvCache::Memory(ByteSize::mib(200)), ContextLength::Auto);
        assert_eq!(plan(&memory, &NEEDS, None).unwrap(), expected);
        // A long context makes an automatic pool larger than its share.
        let long = limits(KvCache::Automatic, ContextLength::Tokens(32_768));
        assert_eq!(plan(&long, &NEEDS, with(19 * GIB)).unwrap().num_blocks, 2048);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let auto = limits(KvCache::Automatic, ContextLength::Auto);
        check_refusal(&auto, with(8 * GIB), &["13.5 GiB of weights", "8.00 GiB available"]);
        let long = limits(KvCache::Automatic, ContextLength::Tokens(32_768));
        check_refusal(&long, with(16 * GIB), &["max_model_len = 32768", "4.00 GiB", "2.26 GiB"]);
        let longer = limits(KvCache::Automatic, ContextLength::Tokens(40_000));
        check_refusal(&longer, with(99 * GIB), &["max_model_len = 40000", "at most 32768"]);
        let pool = limits(KvCache::Memory(ByteSize::mib(8192)), ContextLength::Auto);
        check_refusal(&pool, with(20 * GIB), &["kv_cache_memory", "8.00 GiB", "6.26 GiB"]);
        let small = limits(KvCache::Blocks(10), ContextLength::Tokens(161));
        check_refusal(&small, with(20 * GIB), &["max_model_len = 161", "holds 160 tokens"]);
        let nothing = limits(KvCache::Memory(ByteSize::mib(1)), ContextLength::Auto);
        check_refusal(&nothing, with(20 * GIB), &["kv_cache_memory", "not even one block"]);
        let slots = limits(KvCache::Blocks(1 << 40), ContextLength::Auto);
        check_refusal(&slots, None, &["num_blocks"]);
    }

    proptest! {
        #[test]
        fn a_plan_fits(
            available in 0..64 * GIB, weight_bytes in 0..32 * GIB, kv in 1u64..1 << 20, positions in 2usize..1 << 20,
            asked in prop_oneof![Just(None), (2usize..1 << 20).prop_map(Some)],
        ) {
            let context = asked.map_or(ContextLength::Auto, ContextLength::Tokens);
            let limits = limits(KvCache::Automatic, context);
            let needs = Needs { weight_bytes, kv_bytes_per_token: kv, max_position_embeddings: positions, ..NEEDS };
            if let Ok(plan) = plan(&limits, &needs, with(available)) {
                prop_assert!(weight_bytes + plan.kv_bytes + RESERVE <= available);
                prop_assert!(plan.max_model_len <= positions);
                prop_assert!(plan.max_model_len <= plan.num_blocks * 16);
                prop_assert!(asked.is_none_or(|asked| asked == plan.max_model_len));
            }
        }
    }
}
