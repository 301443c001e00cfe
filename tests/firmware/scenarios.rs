//! What happens to the routers.

use crate::lab::Res;
use crate::machine::Kernel;
use crate::stage::{Count, DDWRT, Firmware, Stage, System, Trial, Who};

use Who::{Guest, Lan};

pub fn ddwrt() -> Res<String> {
    links(&DDWRT)
}

fn links(firmware: &'static Firmware) -> Res<String> {
    let mut said = String::new();
    for system in [System::Product, System::OneLiner] {
        let mut stage = Stage::new(firmware, system, Kernel::Old)?;
        stage.install()?;
        stage.start()?;
        stage.verify()?;
        said += &format!("\n    delivered {}", stage.delivered()?);
        stage.tunnel_down()?;
        let trial = Trial::of(&stage)?;
        stage.sh(firmware.restart)?;
        stage.settle()?;
        let count = trial.finish()?;
        stage.verify()?;
        said += &format!("\n    {system:?}: {count}");
        if system == System::Product {
            count.tight()?;
        } else {
            count.leaks(&[(Lan, 6), (Guest, 4), (Guest, 6)])?;
        }
    }
    Ok(said)
}
