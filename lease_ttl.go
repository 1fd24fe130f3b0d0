// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"cmp"
	"fmt"
	"net/http"
	"time"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
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
			return badField(f.field, "%ds is out of range; send 0 (unset) to %d seconds (730 days)", f.value, int64(maxLifetime/time.Second))
		}
	}
	if maxTTL > 0 && ttl > maxTTL {
		return badField(keyTTL, "%ds is longer than max_ttl, %ds; lower it or raise max_ttl", ttl, maxTTL)
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
	var err error
	t.ttl, t.warnings, err = framework.CalculateTTL(sys, requested, usual, 0, t.maxTTL, 0, time.Time{})
	return t, err
}

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
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("Databricks made a credential that has ended by now: %s were asked for, %s were given; check the clocks, and the maximum that the workspace allows", requested, token.Lifetime))
	case token.Lifetime > requested+lifetimeSkew:
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks gave the credential a life of %s although %s were asked for; the lease revokes it earlier.", token.Lifetime.Truncate(time.Second), requested))
	}
	if left < t.maxTTL {
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks gave the credential a life of %s, so the lease can last no longer, and max_ttl of %s can't be reached.",
			token.Lifetime.Truncate(time.Second), t.maxTTL))
		t.maxTTL = left
		t.ttl = min(t.ttl, left)
	}
	return nil
}

// endByItself sets the terms for a credential that can't be revoked: its lease is as long as the credential, whatever was
// requested.
func (t *terms) endByItself(lifetime time.Duration) {
	lifetime = lifetime.Truncate(time.Second)
	wanted := t.ttl
	if t.requested > 0 {
		wanted = t.requested
	}
	if lifetime > wanted || t.requested > lifetime {
		t.warnings = append(t.warnings, fmt.Sprintf("Databricks makes access tokens that live for %s and can't be revoked, so the lease is as long, although ttl is %s.", lifetime, wanted))
	}
	t.ttl, t.maxTTL = lifetime, lifetime
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
