"""The evidence bundle of a release: one archive that a third party can check offline."""
