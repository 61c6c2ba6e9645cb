//! Writes `crds/generated/*.yaml` from the types, and the chart's copies; `make generate` runs it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let generated = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    let chart = generated.join("../../charts/fairlead/files/crds");
    std::fs::create_dir_all(&generated)?;
    std::fs::create_dir_all(&chart)?;
    for (name, text) in fairlead_crds::definition::files()? {
        std::fs::write(chart.join(&name), fairlead_crds::definition::for_chart(&text))?;
        std::fs::write(generated.join(name), text)?;
    }
    Ok(())
}
