# Installs cdgmae, as a link to this folder, into the active environment; Snakemake runs this once after it made envs/cdgmae.yaml.
set -e
if [ ! -f pyproject.toml ] || [ ! -d cdgmae ]; then
  echo "cdgmae.post-deploy.sh: $PWD is not the project's folder; start snakemake there, or without --sdm conda: jobs then use the environment of snakemake" >&2
  exit 1
fi
python -m pip install --quiet --no-deps --no-build-isolation --editable .
