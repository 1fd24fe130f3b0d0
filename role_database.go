// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/duration"
)

const (
	// shortestLogin and longestLogin are the limits of Databricks for the life of a login to an endpoint. One to instances always lives for the longest.
	shortestLogin = 5 * time.Minute
	longestLogin  = time.Hour
)

var (
	endpointForm = regexp.MustCompile(`^projects/([A-Za-z0-9][A-Za-z0-9_.-]{0,127})/branches/([A-Za-z0-9][A-Za-z0-9_.-]{0,127})/endpoints/([A-Za-z0-9][A-Za-z0-9_.-]{0,127})$`)
	instanceForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
	hostForm     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	tableForm    = regexp.MustCompile(`^[^\s./\x00-\x1f\x7f]{1,255}(\.[^\s./\x00-\x1f\x7f]{1,255}){2}$`)
)

// shortestLife returns the shortest life of the role's logins. The longest is longestLogin.
func (r *roleEntry) shortestLife() time.Duration {
	if r.DatabaseEndpoint != "" {
		return shortestLogin
	}
	return longestLogin
}

// lives says how long the role's logins live.
func (r *roleEntry) lives() string {
	if r.DatabaseEndpoint != "" {
		return fmt.Sprintf("a credential for an endpoint lives for %s to %s, as ttl says", duration.Text(shortestLogin), duration.Text(longestLogin))
	}
	return fmt.Sprintf("a credential for instances always lives for %s, so leave ttl out", duration.Text(longestLogin))
}

// checkDatabase checks the fields of a role for logins to databases.
func (r *roleEntry) checkDatabase() error {
	switch {
	case r.DatabaseEndpoint == "" && len(r.DatabaseInstances) == 0:
		return badField(keyDatabaseEndpoint, "is missing; credential_type %s needs it or %s", r.CredentialType, keyDatabaseInstances)
	case r.DatabaseEndpoint != "" && len(r.DatabaseInstances) > 0:
		return badField(keyDatabaseInstances, "can't be combined with %s; send one, and the other empty if the role has it from before", keyDatabaseEndpoint)
	case r.DatabaseEndpoint != "" && !endpointForm.MatchString(r.DatabaseEndpoint):
		return badField(keyDatabaseEndpoint, "%q is not the name of an endpoint; it looks like projects/shop/branches/production/endpoints/primary", r.DatabaseEndpoint)
	case r.DatabaseHost != "" && !hostForm.MatchString(r.DatabaseHost):
		return badField(keyDatabaseHost, "%q is not a host name; send it without scheme, user, port and path", r.DatabaseHost)
	}
	for _, name := range r.DatabaseInstances {
		if !instanceForm.MatchString(name) {
			return badField(keyDatabaseInstances, "%q is not the name of an instance", name)
		}
	}
	for _, table := range r.Claims {
		if !tableForm.MatchString(table) {
			return badField(keyClaims, "%q is not the full name of a table; it looks like catalog.schema.table", table)
		}
	}
	shortest := r.shortestLife()
	for _, f := range []struct {
		field  string
		value  int64
		beyond bool
	}{{keyTTL, r.TTL, seconds(r.TTL) > longestLogin}, {keyMaxTTL, r.MaxTTL, false}} {
		if f.value > 0 && (seconds(f.value) < shortest || f.beyond) {
			return badField(f.field, "%s is out of range: %s", duration.Seconds(f.value), r.lives())
		}
	}
	return nil
}

// forgetHost drops the host that was looked up for another database, unless the request sends one.
func (r *roleEntry) forgetHost(data *framework.FieldData) {
	_, endpoint := data.Raw[keyDatabaseEndpoint]
	_, instances := data.Raw[keyDatabaseInstances]
	if (endpoint || instances) && !given(data, keyDatabaseHost) {
		r.DatabaseHost = ""
	}
}

// lookUpDatabase completes the host of the role's database, unless that is known, and refuses a database that doesn't exist. unknown says why the host
// can't be told: the engine's identity needs no right to see the database of a named service principal.
func (r *roleEntry) lookUpDatabase(ctx context.Context, conn *connection, old *roleEntry) (unknown string, err error) {
	same := r.CredentialType == old.CredentialType && r.DatabaseEndpoint == old.DatabaseEndpoint && slices.Equal(r.DatabaseInstances, old.DatabaseInstances)
	if r.DatabaseHost != "" || same && len(r.DatabaseInstances) > 1 {
		return "", nil
	}
	field, names, find := keyDatabaseInstances, r.DatabaseInstances, conn.client.InstanceHost
	if r.DatabaseEndpoint != "" {
		field, names, find = keyDatabaseEndpoint, []string{r.DatabaseEndpoint}, conn.client.EndpointHost
	}
	host := ""
	for _, name := range names {
		host, err = find(ctx, name)
		if client.IsGone(err) {
			return "", badField(field, "there is no %q at %s; create it there, or correct it", name, conn.config.Host)
		}
		var refused *client.Error
		if errors.As(err, &refused) && refused.Kind == client.Refused && refused.Status == http.StatusBadRequest {
			return "", badField(field, "Databricks does not take %q: %s", name, refused)
		}
		if refused != nil && slices.Contains([]client.Kind{client.PermissionDenied, client.ScopeMissing, client.Refused}, refused.Kind) {
			return refused.Error(), nil
		}
		if err != nil {
			return "", fmt.Errorf("look up %s: %w", field, err)
		}
	}
	switch {
	case len(names) > 1:
		return "there are several instances", nil
	case !hostForm.MatchString(host):
		return "Databricks did not tell it", nil
	}
	r.DatabaseHost = host
	return "", nil
}

// decideLife decides how long the login of a plan lives, which the lease follows: as long as the caller, the role or the config says, within what
// Databricks allows.
func (b *backend) decideLife(role *roleEntry, p *mintPlan) error {
	shortest, asked := role.shortestLife(), p.terms.requested
	if asked > 0 && asked < shortest {
		return badField(keyTTL, "%s is too short: %s", duration.Text(asked), role.lives())
	}
	longest := max(min(longestLogin, effectiveMaxTTL(b.host(), p.conn.config, role)), shortest)
	p.request.Life = min(max(cmp.Or(asked, seconds(cmp.Or(role.TTL, p.conn.config.TTL)), longestLogin), shortest), longest)
	if asked > longest {
		p.terms.warnings = append(p.terms.warnings, fmt.Sprintf("ttl of %s is more than the %s that credentials of this role can live, so it is capped at that.", duration.Text(asked), duration.Text(longest)))
	}
	p.terms.requested, p.terms.ttl = 0, p.request.Life
	return nil
}
