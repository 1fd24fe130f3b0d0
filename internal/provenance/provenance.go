// SPDX-License-Identifier: MPL-2.0

// Package provenance says what a binary was built from. The commands of the project print it for -version -json.
package provenance

import (
	"encoding/json"
	"io"
	"runtime"
	"runtime/debug"
)

// The commit, set by the Makefile with -ldflags -X. Go's own stamp (-buildvcs) is not used there, since it fails where git does not
// trust the directory, and makes no difference between no commit and no git.
var (
	revision   string // 40 hexadecimal digits
	commitTime string // RFC 3339, UTC
	dirty      string // "true" if the working tree had changes, "false" if not
)

// Provenance is what a binary was built from. Fields that were not known when it was built are left out.
type Provenance struct {
	Name         string       `json:"name"`
	Version      string       `json:"version"`
	Revision     string       `json:"revision,omitempty"`
	CommitTime   string       `json:"commit_time,omitempty"`
	Dirty        *bool        `json:"dirty,omitempty"`
	GoVersion    string       `json:"go_version"`
	Platform     string       `json:"platform"`
	Dependencies []Dependency `json:"dependencies"`
}

// Dependency is a module in the binary, and the checksum of it as in go.sum.
type Dependency struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum,omitempty"`
}

// Of returns the provenance of the running binary.
func Of(name, version string) Provenance {
	p := Provenance{
		Name: name, Version: version,
		Revision: revision, CommitTime: commitTime,
		GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Dependencies: []Dependency{},
	}
	if dirty != "" {
		changed := dirty == "true"
		p.Dirty = &changed
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return p
	}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		p.Dependencies = append(p.Dependencies, Dependency{Path: module.Path, Version: module.Version, Sum: module.Sum})
	}
	return p
}

// Write writes the provenance of the running binary as JSON.
func Write(w io.Writer, name, version string) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(Of(name, version))
}
