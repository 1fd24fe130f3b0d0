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
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
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

// lifeWarning returns a warning if the role's logins live for longer than the config and the mount allow leases to, else "".
func (r *roleEntry) lifeWarning(sys logical.SystemView, config *configEntry) string {
	allowed := effectiveMaxTTL(sys, config, r)
	if r.shortestLife() <= allowed {
		return ""
	}
	return fmt.Sprintf("Logins of this role live for %s at least and can't be revoked, so they outlive the %s that the config and the mount allow a lease.", duration.Text(r.shortestLife()), duration.Text(allowed))
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

// sameDatabase reports whether both are for the same database.
func (r *roleEntry) sameDatabase(other *roleEntry) bool {
	return r.CredentialType == other.CredentialType && r.DatabaseEndpoint == other.DatabaseEndpoint && slices.Equal(r.DatabaseInstances, other.DatabaseInstances)
}

// forgetHost drops the host of another database, unless the request sends one. The host of before, sent along with another database as whoever
// writes back what was read does, is not the new one's.
func (r *roleEntry) forgetHost(data *framework.FieldData, old *roleEntry) {
	_, endpoint := data.Raw[keyDatabaseEndpoint]
	_, instances := data.Raw[keyDatabaseInstances]
	stale := r.DatabaseHost == old.DatabaseHost && !r.sameDatabase(old)
	if (endpoint || instances) && (stale || !given(data, keyDatabaseHost)) {
		r.DatabaseHost = ""
	}
}

// lookUpDatabase completes the host of the role's database, unless that is known, and refuses a database that doesn't exist. It completes what is
// known with why the host can't be told: the engine's identity needs no right to see the database of a named service principal.
func (r *roleEntry) lookUpDatabase(ctx context.Context, conn *connection, old *roleEntry, known *credential.Known) error {
	if r.sameDatabase(old) && (r.DatabaseHost != "" || len(r.DatabaseInstances) > 1) {
		return nil
	}
	field, names, find := keyDatabaseInstances, r.DatabaseInstances, conn.client.InstanceHost
	if r.DatabaseEndpoint != "" {
		field, names, find = keyDatabaseEndpoint, []string{r.DatabaseEndpoint}, conn.client.EndpointHost
	}
	host := ""
	for _, name := range names {
		found, err := find(ctx, name)
		var refused *client.Error
		switch {
		case client.IsGone(err) && r.spec().Named() && r.DatabaseHost != "":
			known.Hidden = append(known.Hidden, name)
		case client.IsGone(err) && r.spec().Named():
			return badField(field, "there is no %q at %s that the engine's identity may see; create it there, correct it or, if only the service principal may see it, send its host as %s", name, conn.config.Host, keyDatabaseHost)
		case client.IsGone(err):
			return badField(field, "there is no %q at %s; create it there, or correct it", name, conn.config.Host)
		case errors.As(err, &refused) && refused.Kind == client.Refused && refused.Status == http.StatusBadRequest:
			return badField(field, "Databricks does not take %q: %s", name, refused)
		case client.IsKind(err, client.PermissionDenied, client.ScopeMissing, client.Refused):
			known.HostUnknown = err.Error()
		case err != nil:
			return fmt.Errorf("look up %s: %w", field, err)
		}
		host = found
	}
	switch {
	case r.DatabaseHost != "":
		known.HostUnknown = ""
	case known.HostUnknown != "":
	case len(names) > 1:
		known.HostUnknown = "there are several instances"
	case !hostForm.MatchString(host):
		known.HostUnknown = "Databricks did not tell it"
	default:
		r.DatabaseHost = host
	}
	return nil
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
	if warning := role.lifeWarning(b.host(), p.conn.config); warning != "" {
		p.terms.warnings = append(p.terms.warnings, warning)
	}
	p.terms.requested, p.terms.ttl = 0, p.request.Life
	return nil
}
