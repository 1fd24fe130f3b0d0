// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/duration"
)

const (
	// lifetimeSkew is how much longer than its lease a credential lives at Databricks, so that the lease ends first despite
	// clock differences and slow calls.
	lifetimeSkew = time.Minute

	// maxLifetime is the longest lifetime that Databricks allows a token by default (Databricks guide "Monitor and revoke
	// personal access tokens", maxTokenLifetimeDays). It limits every duration of a config or role.
	maxLifetime = 730 * 24 * time.Hour
)

// checkTTLs returns a fieldError for values that no lease can have. Both are in seconds; 0 means unset.
func checkTTLs(ttl, maxTTL int64) error {
	for _, f := range []struct {
		field string
		value int64
	}{{keyTTL, ttl}, {keyMaxTTL, maxTTL}} {
		if f.value < 0 || f.value > int64(maxLifetime/time.Second) {
			return badField(f.field, "%s is out of range; send 0 (unset) to %s", duration.Seconds(f.value), duration.Text(maxLifetime))
		}
	}
	if maxTTL > 0 && ttl > maxTTL {
		return badField(keyTTL, "%s is longer than max_ttl, %s; lower it or raise max_ttl", duration.Seconds(ttl), duration.Seconds(maxTTL))
	}
	return nil
}

// terms are the durations of a lease and its credential.
type terms struct {
	requested time.Duration // ttl of the request, 0 for none
	ttl       time.Duration // first duration of the lease
	maxTTL    time.Duration // longest duration of the lease, renewals included
	warnings  []string      // which values were capped, and by what
}

// lifetime returns the credential's lifetime at Databricks.
func (t terms) lifetime() time.Duration { return t.maxTTL + lifetimeSkew }

// decideTerms returns the terms of a new lease. Its ttl is the requested one (asked, 0 for none), else the role's, the config's
// or the mount's default. It is capped, with a warning, by the role's max_ttl, or else the config's, and by the mount's
// maximum.
func decideTerms(sys logical.SystemView, config *configEntry, role *roleEntry, requested time.Duration) (terms, error) {
	t := terms{requested: requested, maxTTL: effectiveMaxTTL(sys, config, role)}
	usual := seconds(cmp.Or(role.TTL, config.TTL))
	if usual == 0 {
		// The mount's default was not requested, so capping it needs no warning.
		usual = min(sys.DefaultLeaseTTL(), t.maxTTL)
	}
	ttl, capped, err := framework.CalculateTTL(sys, requested, usual, 0, t.maxTTL, 0, time.Time{})
	if t.ttl = ttl; len(capped) > 0 {
		t.warnings = []string{fmt.Sprintf("ttl of %s is more than the effective max_ttl of %s, so the lease is capped at that.", duration.Text(cmp.Or(requested, usual)), duration.Text(t.maxTTL))}
	}
	return t, err
}

// lifetimeWarning returns a warning when credentials of the role live at Databricks for much longer than their leases, since somebody
// set ttl and nobody max_ttl; else "".
func lifetimeWarning(sys logical.SystemView, config *configEntry, role *roleEntry) string {
	ttl, longest := seconds(cmp.Or(role.TTL, config.TTL)), effectiveMaxTTL(sys, config, role)
	if credential.Lookup(role.CredentialType).Traits().EndsByItself || role.MaxTTL > 0 || config.MaxTTL > 0 || ttl == 0 || ttl >= longest {
		return ""
	}
	return fmt.Sprintf("max_ttl is not set, so credentials of this role live for %s at Databricks unless they are revoked, although ttl is %s: a ttl shortens only the lease, that of a caller, too. Set max_ttl to the longest life that they need.",
		duration.Text(longest), duration.Text(ttl))
}

// explainLifetime adds to a refusal of Databricks which lifetime was asked for, and remedy, which says what lowers it. How Databricks
// refuses a lifetime over the workspace's maximum isn't documented, so only a refusal of a request that has a lifetime, in words about
// lifetimes, is taken for that, and with a condition unless they are about a limit, too.
func explainLifetime(err error, lifetime time.Duration, remedy string) error {
	var remote *client.Error
	if !errors.As(err, &remote) || remote.Kind != client.Refused || remote.Status == 0 || credential.Explained(err) ||
		!remote.AskedLifetime() || !aboutLifetime.MatchString(remote.Message) {
		return err
	}
	switch {
	case aboutLimit.MatchString(remote.Message):
		return fmt.Errorf("the workspace allows no credential that lives for %s; %s: %w", duration.Text(lifetime), remedy, err)
	case remote.ErrorCode == "INVALID_PARAMETER_VALUE":
		return fmt.Errorf("a credential that lives for %s was asked for; if the workspace allows less, %s: %w", duration.Text(lifetime), remedy, err)
	default:
		return err
	}
}

var (
	aboutLifetime = regexp.MustCompile(`(?i)life[ _]?(time|span)|time[ -]to[ -]live|\bttl\b|\b(expiration|expiry|validity)\b|\bvalid for\b`)
	aboutLimit    = regexp.MustCompile(`(?i)\b(max|maximum|limit|limited|exceeds?|exceeded|exceeding|longer|greater|larger|above|more than|less than|at most|too long|up to)\b`)
)

// effectiveMaxTTL returns the longest possible lease: the role's max_ttl, or else the config's, capped by the mount's maximum
// and by maxLifetime.
func effectiveMaxTTL(sys logical.SystemView, config *configEntry, role *roleEntry) time.Duration {
	longest := min(sys.MaxLeaseTTL(), maxLifetime-lifetimeSkew)
	if set := seconds(cmp.Or(role.MaxTTL, config.MaxTTL)); set > 0 {
		longest = min(longest, set)
	}
	return longest
}

// capTo adjusts the terms to the lifetime that Databricks granted, of which left remains; asked is the lifetime that was
// requested. A shorter lifetime shortens the lease, with a warning. A credential that never ends, or has ended already, is an
// error.
func (t *terms) capTo(token *credential.Credential, requested, left time.Duration) error {
	left = left.Truncate(time.Second)
	switch {
	case token.Lifetime <= 0:
		return logical.CodedError(http.StatusBadGateway, "Databricks made a credential that never ends, although a lifetime was asked for, so it is removed again")
	case left < time.Second:
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("Databricks made a credential that has ended by now: %s were asked for, %s were given; check the clocks, and the maximum that the workspace allows", duration.Text(requested), duration.Text(token.Lifetime)))
	case token.Lifetime > requested+lifetimeSkew:
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks gave the credential a life of %s although %s were asked for; the lease revokes it earlier.", duration.Text(token.Lifetime), duration.Text(requested)))
	}
	if left < t.maxTTL {
		why := fmt.Sprintf("Databricks gave the credential a life of %s although %s were asked for", duration.Text(token.Lifetime), duration.Text(requested))
		if token.Lifetime.Round(time.Second) >= requested {
			why = "The credential took long to make"
		}
		t.warnings = append(t.warnings, fmt.Sprintf("%s, so the lease can last no longer than %s instead of max_ttl, %s.", why, duration.Text(left), duration.Text(t.maxTTL)))
		t.maxTTL = left
		t.ttl = min(t.ttl, left)
	}
	return nil
}

// endByItselfSlack is by how much the life of a credential differs from what was asked for because of the whole seconds in which clocks and answers
// tell it.
const endByItselfSlack = 2 * time.Second

// endByItself sets the terms for a credential that can't be revoked, and lives for lifetime, of which left remains: its lease is as long, whatever
// was requested. plural is what such credentials are called. A credential that has ended already is an error.
func (t *terms) endByItself(lifetime, left time.Duration, plural string) error {
	lifetime = lifetime.Truncate(time.Second)
	left = min(left.Truncate(time.Second), lifetime)
	if left < time.Second {
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("Databricks makes %s that live for %s, which have ended by now; check the clocks, and why the request took so long", plural, duration.Text(lifetime)))
	}
	wanted := cmp.Or(t.requested, t.ttl)
	if lifetime > wanted+endByItselfSlack || t.requested > lifetime+endByItselfSlack {
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks makes %s that live for %s and can't be revoked, so the lease is as long, although ttl is %s.", plural, duration.Text(lifetime), duration.Text(wanted)))
	}
	t.ttl, t.maxTTL = left, left
	return nil
}

// renewTerms returns the terms of a renewal. The credential can't be extended, so the lease never ends after it, whatever the
// role says now. Vault applies maxTTL once more, counted from the time of issue, and warns if it caps the lease, so maxTTL must
// not exceed the credential's end either. Errors are fieldErrors.
func renewTerms(sys logical.SystemView, config *configEntry, role *roleEntry, secret *logical.Secret, l *lease, now time.Time) (terms, error) {
	if !now.Before(l.Expires) {
		return terms{}, badField("lease", "the credential ended at Databricks at %s, so it can't be renewed; read creds/%s again", rfc3339(l.Expires), l.Role)
	}
	base := l.TTL
	if role.TTL > 0 {
		base = min(base, role.TTL)
	}
	t := terms{maxTTL: effectiveMaxTTL(sys, config, role)}
	requested := cmp.Or(int64(secret.Increment/time.Second), base)
	if lived := l.Expires.Sub(secret.IssueTime.Truncate(time.Second)).Truncate(time.Second); lived < t.maxTTL {
		t.maxTTL = lived
		if remaining := l.Expires.Sub(now).Truncate(time.Second); seconds(requested) > remaining {
			t.warnings = append(t.warnings, fmt.Sprintf("The credential ends at Databricks at %s and can't be extended there.", rfc3339(l.Expires)))
		}
	}
	var err error
	t.ttl, _, err = framework.CalculateTTL(sys, secret.Increment, seconds(base), 0, t.maxTTL, 0, secret.IssueTime)
	if err != nil {
		return terms{}, badField("lease", "%s; read creds/%s again", err, l.Role)
	}
	return t, nil
}
