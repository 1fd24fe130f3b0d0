// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// vault reads a role of the secrets engine. It is used by one goroutine at a time.
type vault struct {
	client    *api.Client
	mount     string
	role      string
	narrowed  url.Values // by the caller: what a read of the role takes
	tokenFile string     // "" if the token is in the client, or none is sent
}

// owner is the Vault token that credentials are leased to. Their leases end with it.
type owner struct {
	id  string    // not the token
	end time.Time // zero if it doesn't end, or Vault doesn't tell
	due time.Time // when it is to be renewed, zero if it can't be
}

// leased is a credential as Vault answered it.
type leased struct {
	host      string
	value     string
	revocable bool // so that it ends at Databricks when its lease does
	leaseID   string
	renewable bool
	duration  time.Duration
	end       time.Time
}

func newVault(mount, role, tokenFile string, narrowed url.Values) (*vault, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	// Agent and Proxy cache what they have seen the same request for, headers included, and would answer with the lease that is to be
	// replaced, or with that of another process on this machine.
	client = client.WithRequestCallbacks(func(r *api.Request) { r.Headers.Set("X-Correlation-Id", rand.Text()) })
	// VAULT_WRAP_TTL is meant for people: of a wrapped answer the lease would be neither known nor revoked.
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	if tokenFile == "" && client.Token() == "" && os.Getenv(api.EnvVaultAgentAddr) == "" && os.Getenv(api.EnvVaultProxyAddr) == "" {
		if home, err := os.UserHomeDir(); err == nil {
			if file := filepath.Join(home, ".vault-token"); exists(file) {
				tokenFile = file
			}
		}
	}
	return &vault{client: client, mount: mount, role: role, tokenFile: tokenFile, narrowed: narrowed}, nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// loadToken reads the token file again, where there is one.
func (v *vault) loadToken() error {
	if v.tokenFile == "" {
		return nil
	}
	raw, err := os.ReadFile(v.tokenFile)
	if err != nil {
		return fmt.Errorf("the Vault token can't be read: %w", err)
	}
	token := strings.TrimSpace(string(raw))
	if token == "" {
		return fmt.Errorf("%s is empty; put a Vault token into it", v.tokenFile)
	}
	v.client.SetToken(token)
	return nil
}

// self renews the Vault token where that is possible, and finds out how long it lives.
func (v *vault) self(ctx context.Context) (owner, error) {
	asked := now()
	secret, err := v.client.Auth().Token().LookupSelfWithContext(ctx)
	if refused(err) {
		return owner{}, nil // by a policy, or the token has ended, which the read then says
	}
	if err != nil {
		return owner{}, v.explain(err)
	}
	ttl, err := secret.TokenTTL()
	if err != nil {
		return owner{}, err
	}
	o := owner{id: fmt.Sprint(secret.Data["accessor"], " ", secret.Data["creation_time"])}
	// The token of a listener is renewed by Agent or Proxy.
	if renewable, _ := secret.TokenIsRenewable(); renewable && v.client.Token() != "" {
		if renewed, err := v.client.Auth().Token().RenewSelfWithContext(ctx, 0); err == nil && renewed.Auth != nil {
			ttl = time.Duration(renewed.Auth.LeaseDuration) * time.Second
			o.due = asked.Add(max(ttl*2/3, time.Second))
		}
	}
	if ttl > 0 {
		o.end = asked.Add(ttl)
	}
	return o, nil
}

// read leases a credential.
func (v *vault) read(ctx context.Context) (*leased, error) {
	asked := now()
	secret, err := v.client.Logical().ReadWithDataWithContext(ctx, v.mount+"/creds/"+v.role, v.narrowed)
	if err != nil {
		return nil, v.explain(err)
	}
	if secret == nil {
		return nil, fmt.Errorf("%s/creds/%s has no answer: is -mount the path of the Databricks secrets engine? 'vault secrets list' shows it", v.mount, v.role)
	}
	l := &leased{leaseID: secret.LeaseID, renewable: secret.Renewable, duration: time.Duration(secret.LeaseDuration) * time.Second}
	l.end = asked.Add(l.duration)
	l.host, _ = secret.Data["host"].(string)
	if l.value, _ = secret.Data["access_token"].(string); l.value == "" {
		l.value, l.revocable = secret.Data["token_value"].(string)
	}
	if l.value == "" || l.host == "" || l.leaseID == "" || l.duration <= 0 {
		err := fmt.Errorf("role %s makes credentials that are no tokens, which this service can't hand out. Use a role with credential_type oauth_token, pat or obo_token", v.role)
		if secret.LeaseID != "" {
			err = errors.Join(err, v.revoke(ctx, secret.LeaseID))
		}
		return nil, err
	}
	return l, nil
}

// renew renews the lease of a credential. It returns false if Vault refuses that.
func (v *vault) renew(ctx context.Context, l *leased) (bool, error) {
	asked := now()
	secret, err := v.client.Sys().RenewWithContext(ctx, l.leaseID, 0)
	if refused(err) {
		return false, nil
	}
	if err != nil {
		return false, v.explain(err)
	}
	l.end, l.renewable = asked.Add(time.Duration(secret.LeaseDuration)*time.Second), secret.Renewable
	return true, nil
}

// revoke ends a lease, and with it the credential where Databricks can end it.
func (v *vault) revoke(ctx context.Context, leaseID string) error {
	if err := v.client.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: leaseID, Sync: true}); err != nil {
		return fmt.Errorf("lease %s is not revoked: %w", leaseID, v.explain(err))
	}
	return nil
}

// refused reports whether the request reached Vault and was refused, so that the same request would be refused again.
func refused(err error) bool {
	var answer *api.ResponseError
	return errors.As(err, &answer) && answer.StatusCode >= 400 && answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests
}

// explain says what an error of Vault means and what to do.
func (v *vault) explain(err error) error {
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		return fmt.Errorf("the Vault server at %s gives no answer: %w. Check VAULT_ADDR, and that Vault runs", v.client.Address(), err)
	}
	said := strings.TrimSpace(strings.Join(answer.Errors, "; "))
	path := v.mount + "/creds/" + v.role
	switch {
	case strings.Contains(said, "Vault is sealed"):
		said += ". Unseal it: vault operator unseal"
	case answer.StatusCode == http.StatusForbidden && v.client.Token() == "":
		said += fmt.Sprintf(". No Vault token was sent: give -token-file or VAULT_TOKEN, or let VAULT_ADDR be the listener of Vault Agent or Proxy with a token of its own that may read %s", path)
	case answer.StatusCode == http.StatusForbidden:
		said += fmt.Sprintf(`. The Vault token has ended, or no policy of it allows "read" on %s and "update" on sys/leases/revoke. 'vault token lookup' tells`, path)
	case strings.Contains(said, "there is no role"):
		said += fmt.Sprintf(". 'vault list %s/roles' shows them", v.mount)
	case answer.StatusCode == http.StatusNotFound:
		said += ". Is -mount the path of the Databricks secrets engine? 'vault secrets list' shows it"
	}
	method, at, _ := strings.Cut(answer.HTTPMethod+" "+answer.URL, " ")
	if _, after, found := strings.Cut(at, "/v1/"); found {
		at = after
	}
	return fmt.Errorf("the Vault server answers %s %s with %d: %s", method, at, answer.StatusCode, said)
}

// now is the time by the wall clock alone: a machine that sleeps stops its monotonic clock, but no token.
func now() time.Time { return time.Now().Round(0) }
