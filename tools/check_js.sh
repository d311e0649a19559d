#!/bin/sh
# Checks the types that the editor's JSDoc names. It needs node and TypeScript, and says so where one is missing:
#   npm install --no-save --prefix build/js typescript
set -e
cd "$(dirname "$0")/.."
tsc=$(command -v tsc || echo build/js/node_modules/.bin/tsc)
if ! command -v node > /dev/null || [ ! -x "$tsc" ]; then
  echo "tools/check_js.sh: skipped: needs node and 'npm install --no-save --prefix build/js typescript'"
  exit 0
fi
exec "$tsc" --noEmit --allowJs --checkJs --strict --noUnusedLocals --noUnusedParameters --target es2022 --module es2022 \
  --moduleResolution bundler --lib es2023,dom,dom.iterable --types '' sdxl/serve/editor/*.js
