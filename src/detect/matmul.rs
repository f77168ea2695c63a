//! f32 matrix product: the one place where an engine needs `unsafe` (the `gemm` crate takes pointers).
#![allow(unsafe_code)]

/// How an operand lies in its slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As its shape says, rows one after the other.
    Rows,
    /// Transposed: the slice holds the transpose's rows.
    Columns,
}

/// `out[m, n] = (accumulate ? out : 0) + a[m, k] · b[k, n]`; `out` is row-major. One thread: callers run tiles in parallel.
///
/// # Panics
/// Where a slice is shorter than its shape says (a defect of the caller).
pub fn matmul(
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
    (a, a_order): (&[f32], Order),
    (b, b_order): (&[f32], Order),
    accumulate: bool,
) {
    assert!(out.len() >= m * n && a.len() >= m * k && b.len() >= k * n, "matmul of {m}x{k}x{n} on slices too short");
    let strides = |order, rows: usize, cols: usize| match order {
        // (column stride, row stride)
        Order::Rows => (1, cols.cast_signed()),
        Order::Columns => (rows.cast_signed(), 1),
    };
    let (a_cs, a_rs) = strides(a_order, m, k);
    let (b_cs, b_rs) = strides(b_order, k, n);
    // SAFETY: the three slices cover their shapes with these strides (asserted above), `out` is exclusive, and f32 has no invalid values.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n.cast_signed(),
            accumulate,
            a.as_ptr(),
            a_cs,
            a_rs,
            b.as_ptr(),
            b_cs,
            b_rs,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition_in_every_order() {
        let (m, k, n) = (5, 7, 3);
        let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.71).cos()).collect();
        let transpose = |x: &[f32], r: usize, c: usize| (0..r * c).map(|i| x[(i % r) * c + i / r]).collect::<Vec<f32>>();
        let mut expected = vec![0.0f32; m * n];
        for i in 0..m {
            for j in 0..n {
                expected[i * n + j] = (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
            }
        }
        let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
        for (a, ao) in [(&a, Order::Rows), (&at, Order::Columns)] {
            for (b, bo) in [(&b, Order::Rows), (&bt, Order::Columns)] {
                let mut out = vec![1.0; m * n];
                matmul(&mut out, (m, k, n), (a, ao), (b, bo), true);
                for (o, e) in out.iter().zip(&expected) {
                    assert!((o - e - 1.0).abs() < 1e-5, "{ao:?} {bo:?}");
                }
            }
        }
    }
}
