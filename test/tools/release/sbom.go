// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

const sbomTool = "github.com/CycloneDX/cyclonedx-gomod"

// sbom writes what is in an artifact's binary, as CycloneDX. The generator is that of cyclonedx-gomod; its command would add the time
// of the day, a random number, and a checksum of its own binary, which is another one on every machine.
func (r *release) sbom(a artifact) error {
	generator, err := bin.NewGenerator(filepath.Join(r.out, a.folder, a.file),
		bin.WithLogger(zerolog.Nop()), bin.WithIncludeStdlib(true), bin.WithVersionOverride(r.version))
	if err != nil {
		return err
	}
	bom, err := generator.Generate()
	if err != nil {
		return fmt.Errorf("its SBOM: %w", err)
	}
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte(a.folder+"@"+r.revision)).URN()
	bom.Metadata.Timestamp = r.time.Format(time.RFC3339)
	bom.Metadata.Tools = &cyclonedx.ToolsChoice{Components: &[]cyclonedx.Component{{
		Type: cyclonedx.ComponentTypeApplication, Name: sbomTool, Version: versionOf(sbomTool),
	}}}
	bom.Metadata.Component.ExternalReferences = nil
	return writeFile(filepath.Join(r.out, a.folder+".cdx.json"), func(w io.Writer) error {
		encoder := cyclonedx.NewBOMEncoder(w, cyclonedx.BOMFileFormatJSON)
		encoder.SetPretty(true)
		return encoder.Encode(bom)
	})
}

// versionOf is the version of a module that this command was built with.
func versionOf(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == module {
				return dep.Version
			}
		}
	}
	return ""
}
