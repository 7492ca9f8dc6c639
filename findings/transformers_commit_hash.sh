#!/bin/bash
# A configuration that transformers loads from the Hub's cache has the attribute _commit_hash: many programs read it to
# write down which state of a model they used. The good guess: it is there, as it has been for years, or its absence is
# an error. What happens: transformers 4 sets it, 5.24 no longer does, and says nothing; a getattr with a default gives
# None for every revision. Why it matters: what was pinned by it is pinned by nothing any more, and a cache whose keys
# hold it gives the vectors of one revision to another. The name of the snapshot's folder still is the commit.
# Seen with transformers 4.57.6 (set) and 5.24.0 (missing) on Linux; exits with 1 if this changes.
set -e
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
export HF_HUB_CACHE="$folder/cache" HF_HUB_OFFLINE=1
commit=0123456789abcdef0123456789abcdef01234567
mkdir -p "$HF_HUB_CACHE/models--owner--tiny/snapshots/$commit" "$HF_HUB_CACHE/models--owner--tiny/refs"
printf %s "$commit" > "$HF_HUB_CACHE/models--owner--tiny/refs/main"
echo '{"model_type": "gpt2", "n_layer": 1}' > "$HF_HUB_CACHE/models--owner--tiny/snapshots/$commit/config.json"
seen=""
for version in 4.57.6 5.24.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" -q install "transformers==$version"
  found=$("$folder/$version/bin/python" - 2>/dev/null <<'PYTHON'
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig

config = AutoConfig.from_pretrained("owner/tiny")
path = try_to_load_from_cache("owner/tiny", "config.json")
print(getattr(config, "_commit_hash", None), path.split("/")[-2])
PYTHON
  )
  echo "transformers $version: _commit_hash and the snapshot's folder: $found"
  seen="$seen$found;"
done
[ "$seen" = "$commit $commit;None $commit;" ]
