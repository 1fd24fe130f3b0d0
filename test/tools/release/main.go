// SPDX-License-Identifier: MPL-2.0

// Command release builds what is published of a version, for make release: an archive and an SBOM for each command and platform,
// an image of the plugin in OCI's layout, and the checksums of all.
//
// The same commit, built by the same version of Go, gives the same bytes wherever and whenever it is built: times are the commit's,
// owners are root, files are in order, and nothing of the machine's environment goes in.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is one version of the commands, and where it goes.
type release struct {
	root, out string
	version   string
	revision  string
	time      time.Time // of the commit
	ldflags   string
}

// artifact is a command as built for a platform.
type artifact struct {
	command  string
	os, arch string
	folder   string // in the release's folder and in the archive, e.g. command_v0.2.0_linux_amd64
	file     string // name of the binary in it
}

func (a artifact) platform() string { return a.os + "/" + a.arch }

func run(args []string) error {
	flags := flag.NewFlagSet("release", flag.ExitOnError)
	var r release
	flags.StringVar(&r.root, "root", "", "the repository")
	flags.StringVar(&r.out, "out", "", "the folder to write to; what is in it is deleted")
	flags.StringVar(&r.version, "version", "", "the version")
	flags.StringVar(&r.revision, "revision", "", "the commit")
	flags.StringVar(&r.ldflags, "ldflags", "", "flags for the linker")
	committed := flags.String("time", "", "the time of the commit")
	platforms := flags.String("platforms", "linux/amd64", "what to build for, as in \"linux/amd64 linux/arm64\"")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if r.revision == "" {
		return fmt.Errorf("there is no commit to release: %s is not a git repository, or git doesn't trust its owner", r.root)
	}
	var err error
	if r.time, err = time.Parse(time.RFC3339, *committed); err != nil {
		return fmt.Errorf("the time of the commit: %w", err)
	}
	if flags.NArg() == 0 {
		return fmt.Errorf("no command to release was named")
	}
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}

	var all []artifact
	for _, command := range flags.Args() {
		for _, platform := range strings.Fields(*platforms) {
			a, err := r.build(command, platform)
			if err != nil {
				return fmt.Errorf("%s for %s: %w", command, platform, err)
			}
			all = append(all, a)
		}
	}
	plugin := flags.Arg(0)
	var images []artifact
	for _, a := range all {
		if a.command == plugin && a.os == "linux" {
			images = append(images, a)
		}
	}
	if len(images) > 0 {
		if err := r.image(plugin, images); err != nil {
			return fmt.Errorf("the image: %w", err)
		}
	}
	if err := r.sums(); err != nil {
		return err
	}
	return r.report()
}

// build builds a command for a platform, and its archive and SBOM.
func (r *release) build(command, platform string) (artifact, error) {
	goos, goarch, ok := strings.Cut(platform, "/")
	if !ok {
		return artifact{}, fmt.Errorf("a platform has the form linux/amd64")
	}
	a := artifact{command: command, os: goos, arch: goarch, file: command}
	a.folder = strings.Join([]string{command, r.version, goos, goarch}, "_")
	if goos == "windows" {
		a.file += ".exe"
	}
	fmt.Println("building", a.folder)
	binary := filepath.Join(r.out, a.folder, a.file)
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", r.ldflags, "-o", binary, "./cmd/"+command)
	build.Dir = r.root
	var err error
	if build.Env, err = r.cleanEnvironment(goos, goarch); err != nil {
		return a, err
	}
	if out, err := build.CombinedOutput(); err != nil {
		return a, fmt.Errorf("%w\n%s", err, bytes.TrimSpace(out))
	}
	if err := os.Chmod(binary, 0o755); err != nil { // whatever the umask
		return a, err
	}
	if err := r.archive(a); err != nil {
		return a, err
	}
	return a, r.sbom(a)
}

// fromWhere are the settings of Go that say where it gets modules and keeps them. They don't change the result, and without them there may be none.
var fromWhere = []string{
	"GOAUTH", "GOCACHE", "GOINSECURE", "GOMODCACHE", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOTOOLCHAIN", "GOVCS",
}

// cleanEnvironment is that of the process for a build of the platform, without what would change the result: neither variables nor what
// go env -w wrote, which is in force where a variable is empty.
func (r *release) cleanEnvironment(goos, goarch string) ([]string, error) {
	settings := exec.Command("go", append([]string{"env"}, fromWhere...)...)
	settings.Dir = r.root
	values, err := settings.Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	var env []string
	for _, pair := range os.Environ() {
		switch name, _, _ := strings.Cut(pair, "="); name {
		case "GOFLAGS", "GOEXPERIMENT", "GOFIPS140", "GOAMD64", "GOARM64", "GOOS", "GOARCH", "CGO_ENABLED", "GOWORK":
		default:
			env = append(env, pair)
		}
	}
	for i, value := range strings.Split(strings.TrimSuffix(string(values), "\n"), "\n") {
		env = append(env, fromWhere[i]+"="+value)
	}
	return append(env, "GOENV=off", "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch, "GOFLAGS=", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0",
		"GOEXPERIMENT=", "GOFIPS140=off"), nil
}

// report prints what was made.
func (r *release) report() error {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s of %s, commit %s of %s, by %s:\n", r.version, r.out, r.revision, r.time.Format(time.RFC3339), runtime.Version())
	for _, entry := range entries {
		if entry.IsDir() {
			fmt.Printf("  %s/\n", entry.Name())
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		fmt.Printf("  %-80s %9d\n", entry.Name(), info.Size())
	}
	if strings.HasSuffix(r.version, "dirty") {
		fmt.Println("\nDON'T PUBLISH THIS: the working tree has changes that are not in the commit.")
	}
	return nil
}
