//! Size probe: netifd's interface dump, an argument here, read and written again with serde's
//! derive and serde_json.
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Dump {
    interface: Vec<Interface>,
}

#[derive(Serialize, Deserialize)]
struct Interface {
    interface: String,
    #[serde(default)]
    up: bool,
    l3_device: Option<String>,
}

fn main() -> Result<(), serde_json::Error> {
    let text = std::env::args().nth(1).unwrap_or_default();
    let dump: Dump = serde_json::from_str(&text)?;
    println!("{}", serde_json::to_string(&dump)?);
    Ok(())
}
