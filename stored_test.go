// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// storedMount is all that outlives a version of the plugin: what a mount had stored, the leases that Vault kept, and what Databricks
// held, at one moment. Files under testdata hold it as JSON. What the engine wrote is in it as it was written, so nothing here may
// depend on the engine's types: they change, and the files don't.
type storedMount struct {
	Version string    `json:"version"` // of the plugin
	Commit  string    `json:"commit"`  // that it was built from
	Made    time.Time `json:"made"`    // on the mount's clock, when everything was as it says here
	MountID string    `json:"mount_id"`
	Host    string    `json:"host"` // of the workspace; another one takes its place wherever it is written

	Storage map[string]json.RawMessage `json:"storage"`
	Leases  []storedLease              `json:"leases"`
	Open    []storedIntent             `json:"open_log_entries"`
	Answers map[string]map[string]any  `json:"answers"` // to reads, by path

	Workspace simulator.Snapshot `json:"workspace"`

	left []string // what ends by itself, in the form of objectsOf
}

// storedEffect is what something is to change at the workspace, in the form of objectsOf.
type storedEffect struct {
	Removes []string `json:"removes"`
	Puts    []string `json:"puts"`
}

// storedLease is a lease as Vault keeps it, and the effect of its revocation.
type storedLease struct {
	Name      string         `json:"name"`
	Path      string         `json:"path"`
	Data      map[string]any `json:"data"` // as it was answered, without its secret part
	TTL       int64          `json:"ttl"`  // seconds
	MaxTTL    int64          `json:"max_ttl"`
	Renewable bool           `json:"renewable"`
	Internal  map[string]any `json:"internal_data"`
	Revoked   storedEffect   `json:"revoked"`
}

// storedIntent is an entry of the write-ahead log that was left open, and the effect of its rollback.
type storedIntent struct {
	Name       string       `json:"name"`
	Key        string       `json:"key"` // in the storage
	RolledBack storedEffect `json:"rolled_back"`
}

// objectsOf names all that the workspace holds, a text for each. Two calls tell what has come and gone in between.
func objectsOf(w *simulator.Workspace) []string {
	shot := w.Snapshot()
	var all []string
	for _, p := range shot.Principals {
		all = append(all, "principal "+p.ID)
	}
	for _, g := range shot.Groups {
		all = append(all, "group "+g.Name)
		for _, member := range g.Members {
			all = append(all, "member "+g.Name+"/"+member)
		}
	}
	for _, token := range shot.Tokens {
		all = append(all, "token "+token.ID)
	}
	for _, secret := range shot.OAuthSecrets {
		all = append(all, "oauth_secret "+secret.ID)
	}
	for _, scope := range shot.Scopes {
		all = append(all, "scope "+scope.Name)
		for key, secret := range scope.Secrets {
			sum := sha256.Sum256(secret.Value)
			all = append(all, "secret "+scope.Name+"/"+key+" "+hex.EncodeToString(sum[:8]))
		}
		for principal, permission := range scope.ACLs {
			all = append(all, "acl "+scope.Name+"/"+principal+" "+permission)
		}
	}
	slices.Sort(all)
	return all
}

// effect is what makes the first of two answers of objectsOf the second.
func effect(before, after []string) storedEffect {
	e := storedEffect{Removes: []string{}, Puts: []string{}}
	for _, object := range before {
		if !slices.Contains(after, object) {
			e.Removes = append(e.Removes, object)
		}
	}
	for _, object := range after {
		if !slices.Contains(before, object) {
			e.Puts = append(e.Puts, object)
		}
	}
	return e
}

// storedKeys are all keys of the storage, in order.
func storedKeys(t *testing.T, s logical.Storage) []string {
	t.Helper()
	keys, err := logical.CollectKeys(context.Background(), s)
	require.NoError(t, err)
	slices.Sort(keys)
	return keys
}

// leaveShortSecrets takes from the effects of rollbacks what v0.1.0 removed and what is left to its own end since: OAuth secrets with a
// short life, which the log of v0.1.0 does not identify for certain.
func (s *storedMount) leaveShortSecrets(t *testing.T) {
	t.Helper()
	for i, open := range s.Open {
		var in intent
		require.NoError(t, json.Unmarshal(s.Storage[open.Key], &framework.WALEntry{Data: &in}))
		if lifetime := in.reservation().lifetime; lifetime > 0 && lifetime <= shortLife {
			s.Open[i].RolledBack.Removes = slices.DeleteFunc(open.RolledBack.Removes, func(object string) bool {
				short := strings.HasPrefix(object, "oauth_secret ")
				if short {
					s.left = append(s.left, object)
				}
				return short
			})
		}
	}
}

// openStored starts a mount on what a file holds: over a workspace with the same objects, at the same time, with the same entries in
// its storage. Only the workspace's address is another one. Changes are made to what was read before anything is started.
func openStored(t *testing.T, file string, changes ...func(s *storedMount, address string)) (*storedMount, *mount, *clock) {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	s := decodeStored(t, raw)
	var opts []simulator.Option
	if s.Workspace.AccountID != "" {
		opts = append(opts, simulator.WithAccount(s.Workspace.AccountID))
	}
	m, c := newTimedMount(t, opts...)
	if changes == nil {
		s = decodeStored(t, bytes.ReplaceAll(raw, []byte(s.Host), []byte(m.workspace.URL())))
	}
	for _, change := range changes {
		change(s, m.workspace.URL())
	}
	s.leaveShortSecrets(t)
	require.Equal(t, testMountID, s.MountID, "the mount's marker is in what it made")
	c.advance(s.Made.Sub(c.now()))
	m.workspace.Restore(s.Workspace)
	for key, value := range s.Storage {
		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, value))
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: compact.Bytes()}))
	}
	m.restartAt(c)
	t.Cleanup(func() { m.backend.Cleanup(context.Background()) })
	require.NoError(t, m.backend.Initialize(t.Context(), &logical.InitializationRequest{Storage: m.storage}))
	return s, m, c
}

func decodeStored(t *testing.T, raw []byte) *storedMount {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields() // also what the simulator would lose of the workspace
	s := new(storedMount)
	require.NoError(t, decoder.Decode(s))
	require.NotEmpty(t, s.Host)
	return s
}
