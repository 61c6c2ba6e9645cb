//! Writes the pages of docs/reference; `make generate` runs it, after the programs were built.

fn main() -> std::io::Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    std::fs::create_dir_all(&folder)?;
    for (name, text) in fairlead_tests::reference::pages() {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}
