//! The product of a map's cells with a layer's weights: strips of some cells by some vectors of outputs stay in registers while the inputs go by.

use pulp::{Simd, WithSimd};

use super::super::vector::{CHANNELS, load, store};
use super::Epilogue;

/// Whether [`Product`] can be asked for so many outputs.
#[must_use]
pub const fn takes(outputs: usize) -> bool {
    outputs.is_multiple_of(CHANNELS)
}

/// `out [cells, outputs] = x [cells, inputs] · weights [inputs, outputs]`.
pub struct Product<'a> {
    pub x: &'a [f32],
    pub weights: &'a [f32],
    pub out: &'a mut [f32],
    pub outputs: usize,
    pub epilogue: Option<Epilogue<'a>>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        product(s, self.x, self.weights, self.out, self.outputs, self.epilogue);
    }
}

/// As [`Product`], for code that runs in vectors already.
#[inline(always)]
pub fn product<S: Simd>(s: S, x: &[f32], weights: &[f32], out: &mut [f32], outputs: usize, epilogue: Option<Epilogue<'_>>) {
    let vectors = outputs / S::F32_LANES;
    // What the registers hold: sums, weights of one input, and the input itself.
    match (S::REGISTER_COUNT >= 32, vectors.is_multiple_of(4), vectors.is_multiple_of(2)) {
        (true, true, _) => strips::<S, 6, 4>(s, x, weights, out, outputs, epilogue),
        (true, false, true) => strips::<S, 8, 2>(s, x, weights, out, outputs, epilogue),
        (false, _, true) => strips::<S, 6, 2>(s, x, weights, out, outputs, epilogue),
        (_, _, false) => strips::<S, 12, 1>(s, x, weights, out, outputs, epilogue),
    }
}

#[inline(always)]
fn strips<S: Simd, const C: usize, const V: usize>(
    s: S,
    x: &[f32],
    weights: &[f32],
    out: &mut [f32],
    outputs: usize,
    epilogue: Option<Epilogue<'_>>,
) {
    let inputs = weights.len() / outputs;
    for first in (0..outputs).step_by(V * S::F32_LANES) {
        let (mut xs, mut outs) = (x.chunks_exact(C * inputs), out.chunks_exact_mut(C * outputs));
        for (x, out) in (&mut xs).zip(&mut outs) {
            strip::<S, C, V>(s, x, weights, out, (inputs, outputs), first, epilogue);
        }
        for (x, out) in xs.remainder().chunks_exact(inputs).zip(outs.into_remainder().chunks_exact_mut(outputs)) {
            strip::<S, 1, V>(s, x, weights, out, (inputs, outputs), first, epilogue);
        }
    }
}

/// `C` cells, `V` vectors of outputs from output `first` on.
#[inline(always)]
fn strip<S: Simd, const C: usize, const V: usize>(
    s: S,
    x: &[f32],
    weights: &[f32],
    out: &mut [f32],
    (inputs, outputs): (usize, usize),
    first: usize,
    epilogue: Option<Epilogue<'_>>,
) {
    let mut sums = [[s.splat_f32s(0.0); V]; C];
    let mut rows = [&x[..inputs]; C];
    for c in 0..C {
        rows[c] = &x[c * inputs..(c + 1) * inputs];
    }
    for (input, weights) in weights.chunks_exact(outputs).take(inputs).enumerate() {
        let mut vectors = [s.splat_f32s(0.0); V];
        vectors.copy_from_slice(S::as_simd_f32s(&weights[first..first + V * S::F32_LANES]).0);
        for c in 0..C {
            let x = s.splat_f32s(rows[c][input]);
            for v in 0..V {
                sums[c][v] = s.mul_add_e_f32s(x, vectors[v], sums[c][v]);
            }
        }
    }
    for c in 0..C {
        for v in 0..V {
            let output = first + v * S::F32_LANES;
            store::<S>(out, c * outputs + output, finished(s, epilogue, sums[c][v], output));
        }
    }
}

/// What becomes of the sums of the vector of outputs from `output` on.
#[inline(always)]
pub fn finished<S: Simd>(s: S, epilogue: Option<Epilogue<'_>>, sums: S::f32s, output: usize) -> S::f32s {
    let Some(e) = epilogue else { return sums };
    let sums = s.add_f32s(sums, load::<S>(e.bias, output));
    if e.relu { s.max_f32s(sums, s.splat_f32s(0.0)) } else { sums }
}
