//! Public keys of Curve25519 (RFC 7748), in the manner of TweetNaCl. For throw-away keys of a test
//! alone: nobody measured how long it takes for which key.

/// A number modulo 2^255 - 19: sixteen digits of 16 bits and what was carried.
type Number = [i64; 16];

const A24: Number = [0xdb41, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NINE: [u8; 32] = [
    9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Makes a private key of random bytes.
pub fn clamp(key: &mut [u8; 32]) {
    key[0] &= 248;
    key[31] = key[31] & 127 | 64;
}

/// The public key of a private one.
pub fn public(key: &[u8; 32]) -> [u8; 32] {
    let mut key = *key;
    clamp(&mut key);
    let x: Number =
        std::array::from_fn(|n| i64::from(NINE[2 * n]) | i64::from(NINE[2 * n + 1]) << 8);
    let mut one = Number::default();
    one[0] = 1;
    let (mut a, mut b, mut c, mut d) = (one, x, Number::default(), one);
    for n in (0..255).rev() {
        let bit = key[n / 8] >> (n % 8) & 1 == 1;
        if bit {
            (a, b, c, d) = (b, a, d, c);
        }
        let (sum, difference) = (add(&a, &c), subtract(&a, &c));
        let (other_sum, other_difference) = (add(&b, &d), subtract(&b, &d));
        let (squared, lessened) = (square(&sum), square(&difference));
        let (left, right) = (multiply(&other_difference, &sum), multiply(&other_sum, &difference));
        let gap = subtract(&squared, &lessened);
        a = multiply(&squared, &lessened);
        c = multiply(&gap, &add(&multiply(&gap, &A24), &squared));
        b = square(&add(&left, &right));
        d = multiply(&x, &square(&subtract(&left, &right)));
        if bit {
            (a, b, c, d) = (b, a, d, c);
        }
    }
    pack(multiply(&a, &invert(&c)))
}

fn add(a: &Number, b: &Number) -> Number {
    std::array::from_fn(|n| a[n] + b[n])
}

fn subtract(a: &Number, b: &Number) -> Number {
    std::array::from_fn(|n| a[n] - b[n])
}

fn square(a: &Number) -> Number {
    multiply(a, a)
}

fn multiply(a: &Number, b: &Number) -> Number {
    let mut wide = [0; 31];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            wide[i + j] += x * y;
        }
    }
    // 2^256 is 38.
    let mut out = std::array::from_fn(|n| wide[n] + 38 * wide.get(n + 16).unwrap_or(&0));
    carry(&mut out);
    carry(&mut out);
    out
}

fn carry(a: &mut Number) {
    for n in 0..16 {
        let over = a[n] >> 16;
        a[n] -= over << 16;
        if n < 15 {
            a[n + 1] += over;
        } else {
            a[0] += 38 * over;
        }
    }
}

/// The power of 2^255 - 21.
fn invert(a: &Number) -> Number {
    let mut out = *a;
    for n in (0..254).rev() {
        out = square(&out);
        if n != 2 && n != 4 {
            out = multiply(&out, a);
        }
    }
    out
}

fn pack(mut a: Number) -> [u8; 32] {
    for _ in 0..3 {
        carry(&mut a);
    }
    // At most twice the modulus is in it.
    for _ in 0..2 {
        let mut less = a;
        less[0] -= 0xffed;
        for n in 1..16 {
            less[n] -= if n == 15 { 0x7fff } else { 0xffff } + (less[n - 1] >> 16 & 1);
            less[n - 1] &= 0xffff;
        }
        if less[15] >> 16 & 1 == 0 {
            less[15] &= 0xffff;
            a = less;
        }
    }
    std::array::from_fn(|n| (a[n / 2] >> (8 * (n % 2))).to_le_bytes()[0])
}
