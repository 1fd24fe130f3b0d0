// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// view is what Vault and the workspace have at one moment.
type view struct {
	leases  map[string]bool   // ids that Vault lists
	stored  map[string]string // by id of a credential, the static role or "root" whose entry has it
	shot    simulator.Snapshot
	hashes  map[string]bool // of OAuth secrets
	scopes  map[string]simulator.SnapshotScope
	present map[string]bool // ids of tokens, OAuth secrets and service principals
}

func (p *phase) view(ctx context.Context) (*view, error) {
	client, err := p.leader(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{leases: map[string]bool{}, stored: map[string]string{}, hashes: map[string]bool{}, scopes: map[string]simulator.SnapshotScope{}, present: map[string]bool{}}
	// First what Vault has: what it makes meanwhile must not look as if nobody answered for it.
	if err := listLeases(ctx, client, mount+"/", v.leases); err != nil {
		return nil, err
	}
	v.shot = p.workspace.Snapshot()
	paths := map[string]string{"config": rootCredential}
	for _, s := range p.world.statics {
		paths["static-roles/"+s.name] = s.name
	}
	for path, name := range paths {
		data, err := p.read(ctx, path)
		if err != nil {
			return nil, err
		}
		for _, id := range append(texts(data, "retired_ids"), text(data, "credential_id")) {
			v.stored[id] = name
		}
	}
	for _, t := range v.shot.Tokens {
		v.present[t.ID] = true
	}
	for _, s := range v.shot.OAuthSecrets {
		v.present[s.ID], v.hashes[s.Hash] = true, true
	}
	for _, sp := range v.shot.Principals {
		v.present[sp.ID] = true
	}
	for _, s := range v.shot.Scopes {
		v.scopes[s.Name] = s
	}
	// Snapshots have no Unity Catalog.
	v.scopes[unity] = simulator.SnapshotScope{Name: unity, Secrets: map[string]simulator.SnapshotSecret{}}
	catalog, schema, _ := strings.Cut(unity, "/")
	for name, s := range p.workspace.UCSecrets(catalog, schema) {
		v.scopes[unity].Secrets[name] = simulator.SnapshotSecret{Value: []byte(s.Value), Updated: s.Updated}
	}
	return v, nil
}

// listLeases adds the ids of all leases under a prefix that ends with a slash.
func listLeases(ctx context.Context, client *api.Client, prefix string, ids map[string]bool) error {
	secret, err := client.Logical().ListWithContext(ctx, "sys/leases/lookup/"+prefix)
	if err != nil {
		return fmt.Errorf("listing the leases under %s: %w", prefix, err)
	}
	if secret == nil {
		return nil
	}
	for _, key := range texts(secret.Data, "keys") {
		if !strings.HasSuffix(key, "/") {
			ids[prefix+key] = true
		} else if err := listLeases(ctx, client, prefix+key, ids); err != nil {
			return err
		}
	}
	return nil
}

// leased reports whether there is a lease on a secret or a permission.
func (v *view) leased(kind string, r ref) bool {
	prefix := mount + "/" + kind + "/" + r.scope + "/" + r.key + "/"
	for id := range v.leases {
		if strings.HasPrefix(id, prefix) && !strings.Contains(id[len(prefix):], "/") {
			return true
		}
	}
	return false
}

// secret returns the value, and false where there is none.
func (v *view) secret(r ref) (string, bool) {
	s, ok := v.scopes[r.scope].Secrets[r.key]
	return string(s.Value), ok
}

// alive reports whether a credential's secret part is one that Databricks would accept.
func (p *phase) alive(v *view, value string) bool {
	sum := sha256.Sum256([]byte(value))
	return p.workspace.Introspect(value).Live || v.hashes[hex.EncodeToString(sum[:])]
}

// use logs in at the workspace with a credential: a token, or the secret of a client id.
func (p *phase) use(ctx context.Context, token, clientID, clientSecret string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.workspace.URL()+"/api/2.0/preview/scim/v2/Me", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if clientSecret != "" {
		form := url.Values{"grant_type": {"client_credentials"}, "scope": {"all-apis"}}
		request, err = http.NewRequestWithContext(ctx, http.MethodPost, p.workspace.URL()+"/oidc/v1/token", strings.NewReader(form.Encode()))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.SetBasicAuth(clientID, clientSecret)
	} else if token == "" {
		return errors.New("there is no secret part")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		return fmt.Errorf("the workspace answers %d %.200s", response.StatusCode, body)
	}
	return nil
}
