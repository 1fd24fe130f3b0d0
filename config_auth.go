// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
)

// authType is an authentication method and its config fields.
type authType struct {
	name     string
	required []string
	optional []string
	secret   string // must be sent again when the host changes
}

var authTypes = []authType{
	{client.AuthPAT, []string{keyToken}, nil, keyToken},
	{client.AuthOAuthM2M, []string{keyClientID, keyClientSecret}, nil, keyClientSecret},
	{client.AuthAzureClientSecret, []string{keyAzureTenantID, keyAzureClientID, keyAzureClientSecret}, []string{keyAzureWorkspaceResourceID}, keyAzureClientSecret},
	// There is no secret. The audience decides who accepts an identity token of Vault, so a new host requires it again. A token file has its
	// own audience, and the operator's list of hosts.
	{client.AuthOIDC, []string{keyIdentityTokenAudience}, []string{keyClientID, keyIdentityTokenTTL}, keyIdentityTokenAudience},
}

// needs returns the required fields as the plugin is registered.
func (a authType) needs() []string {
	if a.name == client.AuthOIDC && tokenFile() != "" {
		return nil
	}
	return a.required
}

// has reports whether the auth type has the field.
func (a authType) has(field string) bool {
	return slices.Contains(a.required, field) || slices.Contains(a.optional, field)
}

// authValues returns the values of all authentication fields by field name, "" for unset ones.
func (c *configEntry) authValues() map[string]string {
	ttl := ""
	if c.IdentityTokenTTL != 0 {
		ttl = strconv.FormatInt(c.IdentityTokenTTL, 10)
	}
	return map[string]string{
		keyToken: c.Token.Reveal(), keyClientID: c.ClientID, keyClientSecret: c.ClientSecret.Reveal(),
		keyAzureTenantID: c.AzureTenantID, keyAzureClientID: c.AzureClientID, keyAzureClientSecret: c.AzureClientSecret.Reveal(),
		keyAzureWorkspaceResourceID: c.AzureWorkspaceResourceID,
		keyIdentityTokenAudience:    c.IdentityTokenAudience, keyIdentityTokenTTL: ttl,
	}
}

// resolveAuth infers the auth type from the fields in the request, unless auth_type is sent, checks that its required fields are
// set, and clears the fields of other types.
func (c *configEntry) resolveAuth(data *framework.FieldData) error {
	values := c.authValues()
	var sent []string
	for field := range values {
		if given(data, field) {
			sent = append(sent, field)
		}
	}
	slices.Sort(sent)
	if !given(data, keyAuthType) {
		if err := c.inferAuth(sent, values); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(authTypes, func(a authType) bool { return a.name == c.AuthType })
	if i < 0 {
		return badField(keyAuthType, "%q is unknown; use one of: %s", c.AuthType, strings.Join(authTypeNames(authTypes), ", "))
	}
	auth := authTypes[i]
	for _, field := range sent {
		if !auth.has(field) {
			return badField(field, "does not belong to auth_type %s; leave one of them out", auth.name)
		}
	}
	for _, field := range auth.needs() {
		if values[field] == "" {
			return badField(field, "is missing; auth_type %s needs %s", auth.name, strings.Join(auth.required, " and "))
		}
	}
	for _, field := range auth.required {
		if !client.ValidCredential(values[field]) {
			return badField(field, "contains spaces, control characters or others that are not valid in a credential; copy it again")
		}
	}
	c.dropOtherAuth(auth)
	return nil
}

// inferAuth sets the auth type to the only one that has all sent fields and whose required fields are set. The stored type
// stays if it is such a type, or if no field was sent.
func (c *configEntry) inferAuth(sent []string, values map[string]string) error {
	var fitting, complete []authType
	for _, auth := range authTypes {
		if slices.ContainsFunc(sent, func(field string) bool { return !auth.has(field) }) {
			continue
		}
		fitting = append(fitting, auth)
		if !slices.ContainsFunc(auth.required, func(field string) bool { return values[field] == "" }) {
			complete = append(complete, auth)
		}
	}
	stays := slices.ContainsFunc(fitting, func(a authType) bool {
		return a.name == c.AuthType && !slices.ContainsFunc(a.needs(), func(field string) bool { return values[field] == "" })
	})
	switch {
	case c.AuthType != "" && (stays || len(sent) == 0):
	case len(complete) == 1:
		c.AuthType = complete[0].name
	case len(sent) == 0 && len(complete) == 0:
		return badField(keyAuthType, "can't be inferred; send token for pat, or client_id and client_secret for oauth-m2m")
	case len(fitting) == 0:
		return badField(keyAuthType, "can't be inferred, because credentials of several types were sent: %s; send those of one", strings.Join(sent, ", "))
	case len(complete) > 1:
		return badField(keyAuthType, "can't be inferred, because %s fit; name the one to use", strings.Join(authTypeNames(complete), " and "))
	default:
		c.AuthType = fitting[0].name // resolveAuth then reports the missing field
	}
	return nil
}

func authTypeNames(types []authType) []string {
	var names []string
	for _, auth := range types {
		names = append(names, auth.name)
	}
	return names
}

// dropOtherAuth clears the fields that only other auth types use.
func (c *configEntry) dropOtherAuth(auth authType) {
	for field, forget := range map[string]func(){
		keyToken:                    func() { c.Token = "" },
		keyClientID:                 func() { c.ClientID = "" },
		keyClientSecret:             func() { c.ClientSecret = "" },
		keyAzureTenantID:            func() { c.AzureTenantID = "" },
		keyAzureClientID:            func() { c.AzureClientID = "" },
		keyAzureClientSecret:        func() { c.AzureClientSecret = "" },
		keyAzureWorkspaceResourceID: func() { c.AzureWorkspaceResourceID = "" },
		keyIdentityTokenAudience:    func() { c.IdentityTokenAudience = "" },
		keyIdentityTokenTTL:         func() { c.IdentityTokenTTL = 0 },
	} {
		if !auth.has(field) {
			forget()
		}
	}
}

// uses reports whether the field belongs to the config's auth type.
func (c *configEntry) uses(field string) bool {
	return slices.ContainsFunc(authTypes, func(a authType) bool { return a.name == c.AuthType && a.has(field) })
}

// secretField returns the field that must be sent again when the host changes, so that a stored credential is never sent to a
// new host; "" for none, where the operator's list of hosts decides about the new one.
func (c *configEntry) secretField() string {
	if c.AuthType == client.AuthOIDC && tokenFile() != "" {
		return ""
	}
	for _, auth := range authTypes {
		if auth.name == c.AuthType {
			return auth.secret
		}
	}
	return keyToken
}
