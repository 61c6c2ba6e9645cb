//! Writes `crds/generated/*.yaml` from the types; `make generate` runs it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    std::fs::create_dir_all(&directory)?;
    for (name, text) in fairlead_crds::definition::files()? {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(())
}
