// SPDX-License-Identifier: MPL-2.0

// Package examples reads the files of examples/ and returns what each asks of Vault, so that tests can hold it against the engine's own
// schema, or do it on a real Vault. A file that it does not know how to read is an error: no example goes unread.
package examples

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// RevokeLease is the operation of a request, or a rule of a policy, that revokes leases of a path.
const RevokeLease logical.Operation = "revoke-lease"

// Unknown is the value of a parameter that is not in the file, but comes from a variable or from standard input.
type Unknown struct{}

// Request is something that an example asks of Vault, or a policy allows.
type Request struct {
	File      string
	Rule      bool // a policy allows it
	Operation logical.Operation
	Path      string         // in Vault. A variable in it is "$"; the rules of policies may have + and *
	Data      map[string]any // the parameters
	Answer    []string       // fields of the answer that are used, the last part of their path
	Strings   []string       // fields of the answer that must be strings, and
	Numbers   []string       // those that must be JSON numbers
}

// Read returns the requests of all files below a folder.
func Read(root string) ([]Request, error) {
	var all []Request
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		requests, err := ReadFile(file)
		all = append(all, requests...)
		return err
	})
	return all, err
}

// ReadFile returns the requests of one file. What kind of file it is, its name and its contents say.
func ReadFile(file string) ([]Request, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	requests, err := Parse(file, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return requests, nil
}

// Parse is ReadFile of a text. The files that it refers to are found from the file's folder.
func Parse(file string, text []byte) (requests []Request, err error) {
	switch path.Ext(file) {
	case ".hcl":
		requests, err = parseHCL(file, text)
	case ".tf":
		requests, err = parseTerraform(file, text)
	case ".yaml", ".yml":
		requests, err = parseYAML(text)
	case ".sh":
		requests, err = parseScript(text)
	case ".md":
		requests, err = parseManual(string(text))
	default:
		return nil, errors.New("no test knows how to read such a file")
	}
	for i := range requests {
		requests[i].File = file
		requests[i].Path = strings.Trim(requests[i].Path, "/")
	}
	return requests, err
}

// operations are the capabilities of policies, and what they allow. sudo is needed beside another.
var operations = map[string]logical.Operation{
	"create": logical.CreateOperation, "read": logical.ReadOperation, "update": logical.UpdateOperation, "patch": logical.PatchOperation,
	"delete": logical.DeleteOperation, "list": logical.ListOperation, "sudo": "",
}

// ofLeases returns the requests with the path whose leases they are about, where they are about leases.
func ofLeases(requests []Request) []Request {
	for i, r := range requests {
		for _, prefix := range []string{"sys/leases/revoke/", "sys/leases/revoke-prefix/", "sys/leases/revoke-force/"} {
			if below, ok := strings.CutPrefix(r.Path, prefix); ok {
				requests[i].Path, requests[i].Operation, requests[i].Data = below, RevokeLease, nil
			}
		}
	}
	return requests
}
