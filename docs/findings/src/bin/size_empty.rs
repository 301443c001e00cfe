//! Size probe: the base that every program pays, one line written.
fn main() {
    println!("protecting");
}
