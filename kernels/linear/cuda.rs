//! The launches of `cuda.cu`: which of its kernels serves how many rows.

use crate::gpu::{Capacity, DevicePointer, Float16, Launch, Product, ProductKind, ProductOutput};

/// Multiprocessors that a grid should fill: those of an H100 and an H200. For few rows others run the same grids.
const MULTIPROCESSORS: usize = 132;
/// Blocks of a streaming kernel on each of them. As many of the next launch fit beside them on Hopper, so that those begin
/// early and two on each; with less room some multiprocessors would get more of them than others. One more where that
/// saves a round: of the next launch fewer then begin early (`Skinny::blocks`).
const STREAMING_BLOCKS: usize = 2;
/// Bytes of shared memory of a multiprocessor, and what a block takes of them besides what it asks for (CUDA C++
/// Programming Guide, compute capability 9.0), with what kernels have that is static. Registers suffice for three blocks
/// of 85 each.
const HOPPER_SHARED: usize = 228 << 10;
const SHARED_PER_BLOCK: usize = 1536;

/// What becomes of the product. The numbers are those of `output.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// Rounded to the type of the weight.
    Store = 0,
    /// Stored as f32, as logits are.
    StoreF32 = 1,
    /// Added to the f32 that is there: the residual.
    Add = 2,
    /// `silu(gate) * up`, rounded. The weight has the rows of the gates, then those of the ups. Gate and up stay f32,
    /// whereas [`Epilogue::Store`] and `swiglu` round them in between.
    SwiGlu = 3,
}

impl Epilogue {
    /// Size of a result.
    fn bytes(self) -> usize {
        match self {
            Self::Store | Self::SwiGlu => Float16::BYTES,
            Self::StoreF32 | Self::Add => 4,
        }
    }
}

/// Operands of a product on a device. All begin at multiples of 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Of type `dtype`, `(rows, in_features)`
    pub x: DevicePointer,
    /// Of type `dtype`, `(out_features, in_features)`; with SwiGLU `(2 * out_features, in_features)`
    pub weight: DevicePointer,
    /// `(rows, out_features)`: f32 for [`Epilogue::StoreF32`] and [`Epilogue::Add`], else of type `dtype`
    pub out: DevicePointer,
    /// Above 0.
    pub rows: usize,
    /// A multiple of 8.
    pub in_features: usize,
    /// Above 0.
    pub out_features: usize,
    /// What becomes of the product.
    pub epilogue: Epilogue,
    /// Of the weight and of x.
    pub dtype: Float16,
}

/// A product whose rows are normalised first, as by `rms_norm` and with the same bits. For few rows: every block
/// computes the norm anew.
#[derive(Clone, Copy, Debug)]
pub struct NormedLinear {
    /// The product; its `x` is the residual, f32 `(rows, in_features)`, and its epilogue is not [`Epilogue::Add`], which
    /// would change what others still read.
    pub linear: Linear,
    /// f32 `(in_features)`
    pub norm_weight: DevicePointer,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// A kernel that streams the weight past up to 16 rows, named for bf16 and for f16.
#[derive(Clone, Copy)]
struct Skinny {
    names: (&'static str, &'static str),
    /// Tiles of 16 rows of the weight that a block computes at a time.
    weight_tiles: usize,
    /// Steps of the weight's ring in shared memory, of 8 KiB per tile.
    ring_steps: usize,
}

impl Skinny {
    const THREADS: u32 = 256;
    const ROWS8: Self = Self { names: ("linear_rows8_bf16", "linear_rows8_f16"), weight_tiles: 1, ring_steps: 5 };
    const ROWS16: Self = Self { names: ("linear_rows16_bf16", "linear_rows16_f16"), weight_tiles: 2, ring_steps: 4 };
    const NORMED: Self = Self { names: ("linear_normed_bf16", "linear_normed_f16"), weight_tiles: 1, ring_steps: 4 };

    /// The ring, and the sums of 8 warps for 8 rows, as `SUM_VECTORS` in `skinny.cuh`.
    fn shared_bytes(self) -> usize {
        self.ring_steps * self.weight_tiles * 8192 + 8 * 8 * (self.weight_tiles * 16 + 4) * 4
    }

    /// A block per group of rows of the weight, or as many as run at a time: of two and three on a multiprocessor the
    /// number with which the busiest has the fewest groups.
    fn blocks(self, weight_rows: usize, shared_bytes: usize) -> u32 {
        let groups = weight_rows.div_ceil(16 * self.weight_tiles);
        let busiest = |blocks| groups.div_ceil(blocks * MULTIPROCESSORS) * blocks;
        let more = STREAMING_BLOCKS + 1;
        let fits = more * (shared_bytes + SHARED_PER_BLOCK) <= HOPPER_SHARED;
        let blocks = if fits && busiest(more) < busiest(STREAMING_BLOCKS) { more } else { STREAMING_BLOCKS };
        groups.min(blocks * MULTIPROCESSORS) as u32
    }
}

/// A kernel for more rows, in tiles. It computes four items per 128 rows of the weight, each a quarter of k.
#[derive(Clone, Copy)]
struct Wide {
    names: (&'static str, &'static str),
    /// Of x, in a tile.
    rows: usize,
    /// For stages of both operands and the sums of a tile.
    shared_bytes: usize,
}

impl Wide {
    const THREADS: u32 = 256;
    const FEATURES: usize = 128;
    const TILE_ITEMS: usize = 4;

    /// By their rows, for the shared memory that a block may have at least: 99 KiB everywhere, 163 KiB on data centre GPUs,
    /// 227 KiB from Hopper on. More in flight made 128 rows faster there, and no fewer rows.
    const SMALL: [Self; 1] = [Self::new(("linear_wide32_bf16", "linear_wide32_f16"), 32, 96)];
    const MEDIUM: [Self; 3] = [
        Self::SMALL[0],
        Self::new(("linear_wide64_bf16", "linear_wide64_f16"), 64, 160),
        Self::new(("linear_wide128_bf16", "linear_wide128_f16"), 128, 160),
    ];
    const LARGE: [Self; 3] =
        [Self::MEDIUM[0], Self::MEDIUM[1], Self::new(("linear_deep128_bf16", "linear_deep128_f16"), 128, 224)];

    const fn new(names: (&'static str, &'static str), rows: usize, shared_kib: usize) -> Self {
        Self { names, rows, shared_bytes: shared_kib << 10 }
    }

    /// The smallest tile for so many rows, or several of the largest.
    fn of(rows: usize, capacity: Capacity) -> Self {
        let fits = |kernels: &[Self]| kernels.iter().all(|it| capacity.block_shared_bytes > it.shared_bytes);
        let kernels: &[Self] = match () {
            () if fits(&Self::LARGE) => &Self::LARGE,
            () if fits(&Self::MEDIUM) => &Self::MEDIUM,
            () => &Self::SMALL,
        };
        let enough = kernels.iter().find(|kernel| rows <= kernel.rows);
        enough.copied().unwrap_or(kernels[kernels.len() - 1])
    }

    /// Sums of a tile.
    fn tile_len(self) -> usize {
        self.rows * Self::FEATURES
    }
}

/// Where blocks that share a tile of a product of more than [`Linear::SKINNY_ROWS`] rows leave their sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// f32, [`Self::partials_len`] of them, of any content.
    pub partials: DevicePointer,
    /// u32, [`Self::counters_len`] of them, zero; they are zero again afterwards.
    pub counters: DevicePointer,
    /// Of the device: which tiles, and how many blocks. The bits do not depend on it.
    pub capacity: Capacity,
}

impl Workspace {
    /// For a product of few rows, which does without.
    pub const NONE: Self =
        Self { partials: DevicePointer::NULL, counters: DevicePointer::NULL, capacity: Capacity::HOPPER };

    /// Length of `partials`, for any product of up to so many rows on any device.
    pub fn partials_len(rows: usize) -> usize {
        let tiles = rows.div_ceil(Wide::of(rows, Capacity::HOPPER).rows);
        match rows {
            ..=Linear::SKINNY_ROWS => 0,
            _ => MULTIPROCESSORS.max(tiles) * Self::NONE.block_len(rows),
        }
    }

    /// Length of `counters`, for any product of up to so many rows on any device.
    pub fn counters_len(rows: usize) -> usize {
        match rows {
            ..=Linear::SKINNY_ROWS => 0,
            _ => MULTIPROCESSORS.max(rows.div_ceil(Wide::SMALL[0].rows)),
        }
    }

    /// A block's share of `partials`: sums of a tile, of a pair of phases and of two, as the first and as the second of
    /// two that are added.
    pub(super) fn block_len(&self, rows: usize) -> usize {
        4 * Wide::of(rows, self.capacity).tile_len()
    }
}

/// Two ways to compute a product. Their sums have different orders, so a row's results have the same bits in any batch
/// only as long as it takes the same way: generated tokens are streamed, those of a prompt are tiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Bound by reading the weight, which is read once for all rows.
    Streamed(Workspace),
    /// Bound by arithmetic: tiles of rows and features.
    Tiled,
}

impl Linear {
    /// The most rows that are streamed without a workspace.
    pub const SKINNY_ROWS: usize = 16;

    /// The launch of any number of rows.
    ///
    /// # Panics
    /// If the operands are not as documented.
    pub fn launch(&self, family: Family) -> Launch {
        self.check();
        match family {
            Family::Streamed(_) if self.rows <= Self::SKINNY_ROWS => self.skinny(),
            Family::Streamed(workspace) => {
                let row_tiles = self.rows.div_ceil(Wide::of(self.rows, workspace.capacity).rows);
                let blocks = workspace.capacity.multiprocessors.min(MULTIPROCESSORS) / row_tiles;
                self.wide(workspace, self.items().div_ceil(blocks.max(1)))
            }
            Family::Tiled => self.tiled(),
        }
    }

    /// Where the operands of rows after the first `rows` are: of `x` and of `out`.
    pub fn after(&self, rows: usize) -> (DevicePointer, DevicePointer) {
        let x = self.x.plus(rows * self.in_features * Float16::BYTES);
        (x, self.out.plus(rows * self.out_features * self.epilogue.bytes()))
    }

    fn skinny(&self) -> Launch {
        let kernel = if self.rows <= 8 { Skinny::ROWS8 } else { Skinny::ROWS16 };
        let name = self.dtype.pick(kernel.names.0, kernel.names.1);
        let grid = [kernel.blocks(self.weight_rows(), kernel.shared_bytes()), 1, 1];
        let launch = Launch::new(name, grid, Skinny::THREADS, kernel.shared_bytes() as u32);
        // More rows need the caches for x, which the next launch would fetch weights past.
        self.with_operands(if self.rows <= 8 { launch.overlapping() } else { launch })
    }

    /// With blocks of so many items. The bits are the same with any number.
    pub(super) fn wide(&self, workspace: Workspace, items_per_block: usize) -> Launch {
        let kernel = Wide::of(self.rows, workspace.capacity);
        let name = self.dtype.pick(kernel.names.0, kernel.names.1);
        let grid = [self.items().div_ceil(items_per_block), self.rows.div_ceil(kernel.rows), 1].map(|n| n as u32);
        let launch = Launch::new(name, grid, Wide::THREADS, kernel.shared_bytes as u32)
            .pointer(self.x)
            .pointer(self.weight)
            .pointer(self.out)
            .pointer(workspace.partials)
            .pointer(workspace.counters)
            .int(items_per_block);
        self.with_sizes(launch)
    }

    /// What the blocks of a tile of rows share out.
    fn items(&self) -> usize {
        self.weight_rows().div_ceil(Wide::FEATURES) * Wide::TILE_ITEMS
    }

    fn tiled(&self) -> Launch {
        let blocks = |tile| [self.rows.div_ceil(tile), self.weight_rows().div_ceil(tile)];
        let large = blocks(128).iter().product::<usize>() >= MULTIPROCESSORS;
        let (name, tile, threads) = match large {
            true => (self.dtype.pick("linear_tiled128_bf16", "linear_tiled128_f16"), 128, 256),
            false => (self.dtype.pick("linear_tiled64_bf16", "linear_tiled64_f16"), 64, 128),
        };
        let [x, y] = blocks(tile).map(|count| count as u32);
        // Blocks next to each other in x, which run together, read the same rows of the weight.
        let launch = self.with_operands(Launch::new(name, [x, y, 1], threads, tile as u32 * 512));
        match self.product() {
            Some(product) => launch.or(product),
            None => launch,
        }
    }

    /// The product as a library computes it: SwiGLU is none.
    fn product(&self) -> Option<Product> {
        let Self { x, weight, out, rows, in_features, out_features, dtype, .. } = *self;
        let output = match self.epilogue {
            Epilogue::Store => ProductOutput::Rounded,
            Epilogue::StoreF32 => ProductOutput::F32,
            Epilogue::Add => ProductOutput::AddF32,
            Epilogue::SwiGlu => return None,
        };
        Some(Product { x, weight, out, rows, kind: ProductKind { in_features, out_features, output, dtype } })
    }

    fn with_operands(&self, launch: Launch) -> Launch {
        self.with_sizes(launch.pointer(self.x).pointer(self.weight).pointer(self.out))
    }

    fn with_sizes(&self, launch: Launch) -> Launch {
        launch.int(self.rows).int(self.in_features).int(self.out_features).int(self.epilogue as usize)
    }

    fn weight_rows(&self) -> usize {
        match self.epilogue {
            Epilogue::SwiGlu => 2 * self.out_features,
            Epilogue::Store | Epilogue::StoreF32 | Epilogue::Add => self.out_features,
        }
    }

    fn check(&self) {
        assert!(self.rows > 0 && self.in_features > 0 && self.out_features > 0, "an empty product: {self:?}");
        assert!(
            self.in_features.is_multiple_of(8),
            "linear: {} input features are not a multiple of 8",
            self.in_features
        );
        for (name, pointer) in [("x", self.x), ("weight", self.weight), ("out", self.out)] {
            assert!(pointer.0.is_multiple_of(16), "linear: {name} at {:#x} is not aligned to 16 bytes", pointer.0);
        }
    }
}

impl NormedLinear {
    /// The most rows. One pays off; of more, fewer blocks fit on a multiprocessor.
    pub const MAX_ROWS: usize = 8;

    /// True if the shared memory that every GPU since compute capability 8.0 has, 99 KiB for a block, holds so many
    /// normalised rows beside the weight's ring.
    pub fn fits(rows: usize, in_features: usize) -> bool {
        const EVERYWHERE: usize = 99 << 10;
        const STATIC: usize = 1 << 10; // the kernel has less
        rows <= Self::MAX_ROWS && Self::shared_bytes(rows, in_features) + STATIC <= EVERYWHERE
    }

    fn shared_bytes(rows: usize, in_features: usize) -> usize {
        Skinny::NORMED.shared_bytes() + rows * (in_features.next_multiple_of(64) + 32) * Float16::BYTES
    }

    /// One launch. Its shared memory holds the normalised rows beside the weight's ring: 16 KiB for each of 8192.
    ///
    /// # Panics
    /// If the operands are not as documented.
    pub fn launch(&self) -> Launch {
        let linear = &self.linear;
        linear.check();
        assert!(linear.rows <= Self::MAX_ROWS, "linear_normed: {} rows are more than {}", linear.rows, Self::MAX_ROWS);
        assert_ne!(linear.epilogue, Epilogue::Add, "linear_normed: the residual is an input");
        let name = linear.dtype.pick(Skinny::NORMED.names.0, Skinny::NORMED.names.1);
        let shared_bytes = Self::shared_bytes(linear.rows, linear.in_features);
        let grid = [Skinny::NORMED.blocks(linear.weight_rows(), shared_bytes), 1, 1];
        let launch = Launch::new(name, grid, Skinny::THREADS, shared_bytes as u32)
            .overlapping()
            .pointer(linear.x)
            .pointer(self.norm_weight)
            .float(self.epsilon)
            .pointer(linear.weight)
            .pointer(linear.out);
        linear.with_sizes(launch)
    }
}
