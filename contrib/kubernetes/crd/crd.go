// Package crd holds the custom resource definitions as they are installed, for
// programs that install them.
package crd

import _ "embed"

// PodMigrations is the definition of PodMigration, YAML.
//
//go:embed godwit.dev_podmigrations.yaml
var PodMigrations []byte

// PodMigrationsName is the definition's name.
const PodMigrationsName = "podmigrations.godwit.dev"
