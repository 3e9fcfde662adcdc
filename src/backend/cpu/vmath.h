/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Elementary functions over vectors of fp32, to about 2 ulp where the name has a polynomial below,
 * for all inputs: NaN gives NaN, infinities and denormals what libm gives. Coefficients: minimax
 * polynomials; those of exp, log, tanh, sin and cos are of S. Moshier's Cephes library (expf, logf,
 * tanhf, sinf, cosf), those of erf were fitted for this file (Lawson's iteration in double
 * precision).
 */
#ifndef TDN_BACKEND_CPU_VMATH_H
#define TDN_BACKEND_CPU_VMATH_H

#include <math.h>

#include "backend/cpu/vec.h"

/* 2^n for n in -126..127. */
TDN_INLINE vf vf_exp2_int(vi n) { return (vf)((n + vi_set(127)) << 23); }

/* p * 2^n; fn is n. */
#if TDN_LANES == 16
TDN_INLINE vf vf_scale(vf p, vf fn, vi n)
{
    (void)n;
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)fn);
}
#else
TDN_INLINE vf vf_scale(vf p, vf fn, vi n)
{
    (void)fn;
    const vi half =
        n >>
        1; /* two factors, so that results overflow to infinity and underflow through denormals */
    return p * vf_exp2_int(half) * vf_exp2_int(n - half);
}
#endif

/* exp(x) = 2^n * exp(r), n = round(x / ln 2). */
TDN_INLINE vf vf_exp(vf x)
{
    x = vf_min(vf_set(89.0f), vf_max(vf_set(-104.0f), x));
    const vf magic = vf_set(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    const vf t = x * vf_set(1.44269504f) + magic;
    const vi n = (vi)t - (vi)magic;
    const vf fn = t - magic;
    vf r = x - fn * vf_set(0.693359375f);
    r = r - fn * vf_set(-2.12194440e-4f);
    vf p = vf_set(1.9875691500e-4f);
    p = p * r + vf_set(1.3981999507e-3f);
    p = p * r + vf_set(8.3334519073e-3f);
    p = p * r + vf_set(4.1665795894e-2f);
    p = p * r + vf_set(1.6666665459e-1f);
    p = p * r + vf_set(5.0000001201e-1f);
    p = p * (r * r) + r + vf_set(1.0f);
    return vf_scale(p, fn, n);
}

/* 2^x = 2^n * 2^r for x of at most 127, n = round(x); the polynomial was fitted for this file
 * (Lawson's iteration in double precision). */
TDN_INLINE vf vf_exp2(vf x)
{
    x = vf_max(vf_set(-151.0f), x);
    const vf magic = vf_set(12582912.0f);
    const vf t = x + magic, fn = t - magic, r = x - fn;
    vf p = vf_set(1.32764725e-3f);
    p = p * r + vf_set(9.67554096e-3f);
    p = p * r + vf_set(5.55071309e-2f);
    p = p * r + vf_set(2.40221202e-1f);
    p = p * r + vf_set(6.93146944e-1f);
    p = p * r + vf_set(1.00000012f);
    return vf_scale(p, fn, (vi)t - (vi)magic);
}

/* log(x) = e * ln 2 + log(m), m in [sqrt(1/2), sqrt(2)). */
TDN_INLINE vf vf_log(vf x)
{
    const vm tiny = vm_lt(x, vf_set(1.17549435e-38f));
    const vf y = vf_select(tiny, x * vf_set(8388608.0f), x);
    const vi bits = (vi)y;
    vf e = vf_from_int(((bits >> 23) & vi_set(255)) - vi_set(126));
    e = e - vf_select(tiny, vf_set(23.0f), vf_set(0.0f));
    vf m = (vf)((bits & vi_set(0x007fffff)) | vi_set(0x3f000000)); /* [1/2, 1) */
    const vm low = vm_lt(m, vf_set(0.707106781f));
    e = e - vf_from_mask(low);
    m = m - vf_set(1.0f) + vf_select(low, m, vf_set(0.0f));
    const vf z = m * m;
    vf p = vf_set(7.0376836292e-2f);
    p = p * m + vf_set(-1.1514610310e-1f);
    p = p * m + vf_set(1.1676998740e-1f);
    p = p * m + vf_set(-1.2420140846e-1f);
    p = p * m + vf_set(1.4249322787e-1f);
    p = p * m + vf_set(-1.6668057665e-1f);
    p = p * m + vf_set(2.0000714765e-1f);
    p = p * m + vf_set(-2.4999993993e-1f);
    p = p * m + vf_set(3.3333331174e-1f);
    vf r = p * m * z;
    r = r + e * vf_set(-2.12194440e-4f);
    r = r - z * vf_set(0.5f);
    r = m + r + e * vf_set(0.693359375f);
    r = vf_select(vm_eq(x, vf_set(INFINITY)), x, r);
    r = vf_select(vm_eq(x, vf_set(0.0f)), vf_set(-INFINITY), r);
    return vf_select(vm_le(vf_set(0.0f), x), r, vf_set(NAN)); /* negative or NaN */
}

TDN_INLINE vf vf_tanh(vf x)
{
    const vf a = vf_abs(x), z = x * x;
    vf p = vf_set(-5.70498872745e-3f);
    p = p * z + vf_set(2.06390887954e-2f);
    p = p * z + vf_set(-5.37397155531e-2f);
    p = p * z + vf_set(1.33314422036e-1f);
    p = p * z + vf_set(-3.33332819422e-1f);
    const vf small = p * z * x + x;
    const vf large = vf_set(1.0f) - vf_set(2.0f) / (vf_exp(a + a) + vf_set(1.0f));
    return vf_select(vm_lt(a, vf_set(0.625f)), small, vf_sign_of(large, x));
}

/* Only exp of what is not positive, so that nothing overflows. */
TDN_INLINE vf vf_sigmoid(vf x)
{
    const vf e = vf_exp(-vf_abs(x));
    return vf_select(vm_lt(x, vf_set(0.0f)), e, vf_set(1.0f)) / (vf_set(1.0f) + e);
}

/* x * P(x^2) near 0, else 1 - exp(Q(|x|)). */
TDN_INLINE vf vf_erf(vf x)
{
    const vf z = x * x, a = vf_min(vf_set(4.0f), vf_abs(x));
    vf p = vf_set(8.18502449e-5f);
    p = p * z + vf_set(-8.09768622e-4f);
    p = p * z + vf_set(5.19695040e-3f);
    p = p * z + vf_set(-2.68577039e-2f);
    p = p * z + vf_set(1.12836637e-1f);
    p = p * z + vf_set(-3.76126319e-1f);
    p = p * z + vf_set(1.28379226e-1f);
    const vf small = p * x + x;
    vf q = vf_set(-2.14453758e-5f);
    q = q * a + vf_set(4.38527728e-4f);
    q = q * a + vf_set(-4.19084495e-3f);
    q = q * a + vf_set(2.51717810e-2f);
    q = q * a + vf_set(-1.08361505e-1f);
    q = q * a + vf_set(-6.33272469e-1f);
    q = q * a + vf_set(-1.12955201f);
    q = q * a + vf_set(1.82455915e-4f);
    const vf large = vf_sign_of(vf_set(1.0f) - vf_exp(q), x);
    return vf_select(vm_lt(vf_set(0.95f), a), large, small);
}

/* A loop over lanes in libm, for what is rare. */
TDN_INLINE vf vf_each(vf x, float (*function)(float))
{
    for (int i = 0; i < TDN_LANES; i++)
        x[i] = function(x[i]);
    return x;
}

/* Sine (shift 0) or cosine (shift 1): quadrant and rest by pi/2 in three parts, exact for |x| <
 * 8192. */
TDN_INLINE vf vf_sin_shifted(vf x, int shift)
{
    if (vm_any(vm_not(vm_lt(vf_abs(x), vf_set(8192.0f)))))
        return vf_each(x, shift ? cosf : sinf);
    const vf magic = vf_set(12582912.0f);
    const vf t = x * vf_set(0.636619772f) + magic;
    const vf fn = t - magic;
    const vi n = (vi)t - (vi)magic + vi_set(shift);
    vf r = x - fn * vf_set(1.5703125f);
    r = r - fn * vf_set(4.837512969970703125e-4f);
    r = r - fn * vf_set(7.54978995489188216e-8f);
    const vf z = r * r;
    vf s = vf_set(-1.9515295891e-4f);
    s = s * z + vf_set(8.3321608736e-3f);
    s = s * z + vf_set(-1.6666654611e-1f);
    s = s * z * r + r;
    vf c = vf_set(2.443315711809948e-5f);
    c = c * z + vf_set(-1.388731625493765e-3f);
    c = c * z + vf_set(4.166664568298827e-2f);
    c = c * z * z - z * vf_set(0.5f) + vf_set(1.0f);
    const vf odd = vf_from_int(n & vi_set(1));
    const vf y = vf_select(vm_eq(odd, vf_set(0.0f)), s, c);
    return (vf)((vi)y ^ ((n & vi_set(2)) << 30));
}
TDN_INLINE vf vf_sin(vf x) { return vf_sin_shifted(x, 0); }
TDN_INLINE vf vf_cos(vf x) { return vf_sin_shifted(x, 1); }

/* Towards zero. Above 2^23 all are integers; the sign of zero stays. */
TDN_INLINE vf vf_trunc(vf x)
{
    const vm small = vm_lt(vf_abs(x), vf_set(8388608.0f));
    const vf t = vf_from_int(vf_to_int(vf_select(small, x, vf_set(0.0f))));
    return vf_select(small, vf_sign_of(t, x), x);
}
TDN_INLINE vf vf_floor(vf x)
{
    const vf t = vf_trunc(x);
    return vf_sign_of(t - vf_from_mask(vm_lt(x, t)), x);
}
TDN_INLINE vf vf_ceil(vf x)
{
    const vf t = vf_trunc(x);
    return vf_sign_of(t + vf_from_mask(vm_lt(t, x)), x);
}
/* Half to even. */
TDN_INLINE vf vf_round(vf x)
{
    const vf magic = vf_set(8388608.0f), a = vf_abs(x);
    const vf t = (a + magic) - magic;
    return vf_select(vm_lt(a, magic), vf_sign_of(t, x), x);
}

#endif
