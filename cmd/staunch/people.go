// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"staunch/api"
	"staunch/internal/cli"
)

type userCmd struct {
	Create       userCreateCmd   `cmd:"" help:"Make a user who signs in by password, or whom an issuer outside signs in."`
	List         userListCmd     `cmd:"" help:"List the users."`
	SetPassword  userPasswordCmd `cmd:"" help:"Give a user another password; they have to sign in again."`
	Disable      userDisableCmd  `cmd:"" help:"Shut a user out; their tokens end within seconds."`
	Enable       userEnableCmd   `cmd:"" help:"Let a user in again."`
	SecondFactor userTOTPCmd     `cmd:"" help:"Ask a user for a code beside the password, or no longer."`
	Delete       userDeleteCmd   `cmd:"" help:"Take a user away."`
}

type userCreateCmd struct {
	UPN           string `arg:"" name:"upn" help:"User principal name, as in ana@corp.example."`
	PasswordStdin bool   `help:"Read the password from standard input: one line."`
	Name          string `help:"Display name." placeholder:"TEXT"`
	Subject       string `help:"No password: an issuer outside signs them in, and this is the oid (else sub) in its tokens." placeholder:"ID"`
	Issuer        string `help:"That issuer, as --oidc-issuer names it. Default: the only one." placeholder:"URL"`
}

func (c userCreateCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	r := api.UserRequest{UPN: c.UPN, Name: c.Name, Issuer: c.Issuer, Subject: c.Subject}
	if c.PasswordStdin == (c.Subject != "") {
		return &cli.Coded{Code: cli.Usage, Err: errors.New("give one of --password-stdin and --subject")}
	}
	if c.PasswordStdin {
		var err error
		if r.Password, err = cli.ReadSecret("password: "); err != nil {
			return err
		}
	}
	u, err := server.CreateUser(ctx, r)
	if err != nil {
		return err
	}
	return out.Print(u, func(w writer) { fmt.Fprintf(w, "created %s\n", u.UPN) })
}

type userListCmd struct{}

func (userListCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	users, err := server.Users(ctx)
	if err != nil {
		return err
	}
	return out.Print(users.Value, func(w writer) {
		rows := make([][]string, len(users.Value))
		for i, u := range users.Value {
			state := "enabled"
			if u.Disabled {
				state = "disabled"
			}
			rows[i] = []string{u.UPN, u.Name, state, strings.Join(u.Groups, ", ")}
		}
		cli.Table(w, []string{"USER", "NAME", "STATE", "GROUPS"}, rows)
	})
}

type userPasswordCmd struct {
	UPN           string `arg:"" name:"upn" help:"The user."`
	PasswordStdin bool   `required:"" help:"Read the password from standard input: one line."`
}

func (c userPasswordCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	password, err := cli.ReadSecret("new password: ")
	if err != nil {
		return err
	}
	return changeUser(ctx, out, server, c.UPN, api.UserChange{Password: &password}, "changed the password of")
}

func changeUser(ctx context.Context, out cli.Output, server admin, upn string, ch api.UserChange, done string) error {
	u, err := server.ChangeUser(ctx, upn, ch)
	if err != nil {
		return err
	}
	return out.Print(u, func(w writer) {
		fmt.Fprintf(w, "%s %s\n", done, u.UPN)
		if u.SecondFactorURI != "" {
			fmt.Fprintf(w, "for their authenticator app, shown once:\n%s\n", u.SecondFactorURI)
		}
	})
}

type userDisableCmd struct {
	UPN string `arg:"" name:"upn" help:"The user."`
}

func (c userDisableCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	yes := true
	return changeUser(ctx, out, server, c.UPN, api.UserChange{Disabled: &yes}, "disabled")
}

type userEnableCmd struct {
	UPN string `arg:"" name:"upn" help:"The user."`
}

func (c userEnableCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	no := false
	return changeUser(ctx, out, server, c.UPN, api.UserChange{Disabled: &no}, "enabled")
}

type userTOTPCmd struct {
	UPN string `arg:"" name:"upn" help:"The user."`
	Off bool   `help:"Ask for no code any more."`
}

func (c userTOTPCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	on := !c.Off
	done := "made a second factor for"
	if c.Off {
		done = "took away the second factor of"
	}
	return changeUser(ctx, out, server, c.UPN, api.UserChange{SecondFactor: &on}, done)
}

type userDeleteCmd struct {
	UPN string `arg:"" name:"upn" help:"The user."`
}

func (c userDeleteCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	return done(out, server.DeleteUser(ctx, c.UPN), "deleted", c.UPN)
}

// done prints that something without an answer was done.
func done(out cli.Output, err error, verb string, what ...string) error {
	if err != nil {
		return err
	}
	return out.Print(map[string][]string{verb: what}, func(w writer) { fmt.Fprintf(w, "%s %s\n", verb, strings.Join(what, ": ")) })
}

type groupCmd struct {
	Create       groupCreateCmd `cmd:"" help:"Make a group of users."`
	List         groupListCmd   `cmd:"" help:"List the groups and who is in them."`
	AddMember    groupAddCmd    `cmd:"" help:"Bring a user into a group."`
	RemoveMember groupRemoveCmd `cmd:"" help:"Take a user out of a group."`
	Delete       groupDeleteCmd `cmd:"" help:"Take a group away."`
}

type groupCreateCmd struct {
	Name     string `arg:"" help:"Its name."`
	External string `help:"The group of an issuer outside that it stands for, as the claim groups names it (of Entra: its object id)." placeholder:"ID"`
	Issuer   string `help:"That issuer, as --oidc-issuer names it. Default: the only one." placeholder:"URL"`
}

func (c groupCreateCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	g, err := server.CreateGroup(ctx, api.GroupRequest{Name: c.Name, Issuer: c.Issuer, External: c.External})
	if err != nil {
		return err
	}
	return out.Print(g, func(w writer) { fmt.Fprintf(w, "created %s\n", g.Name) })
}

type groupListCmd struct{}

func (groupListCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	groups, err := server.Groups(ctx)
	if err != nil {
		return err
	}
	return out.Print(groups.Value, func(w writer) {
		rows := make([][]string, len(groups.Value))
		for i, g := range groups.Value {
			rows[i] = []string{g.Name, strings.Join(g.Members, ", ")}
		}
		cli.Table(w, []string{"GROUP", "MEMBERS"}, rows)
	})
}

type groupAddCmd struct {
	Group string `arg:"" help:"The group."`
	UPN   string `arg:"" name:"upn" help:"The user."`
}

func (c groupAddCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	return done(out, server.AddMember(ctx, c.Group, c.UPN), "added", c.Group, c.UPN)
}

type groupRemoveCmd struct {
	Group string `arg:"" help:"The group."`
	UPN   string `arg:"" name:"upn" help:"The user."`
}

func (c groupRemoveCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	return done(out, server.RemoveMember(ctx, c.Group, c.UPN), "removed", c.Group, c.UPN)
}

type groupDeleteCmd struct {
	Name string `arg:"" help:"The group."`
}

func (c groupDeleteCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	return done(out, server.DeleteGroup(ctx, c.Name), "deleted", c.Name)
}

type roleCmd struct {
	Create   roleCreateCmd   `cmd:"" help:"Make a role of permissions."`
	List     roleListCmd     `cmd:"" help:"List the roles and who has them."`
	Assign   roleAssignCmd   `cmd:"" help:"Give a role to a group of users."`
	Unassign roleUnassignCmd `cmd:"" help:"Take a role from a group of users."`
	Delete   roleDeleteCmd   `cmd:"" help:"Take a role away."`
}

type roleCreateCmd struct {
	Name       string   `arg:"" help:"Its name."`
	Permission []string `required:"" help:"A role permission, as in \"Active remediation actions\" (repeatable)." placeholder:"P" sep:"none"`
}

func (c roleCreateCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	r, err := server.CreateRole(ctx, api.RoleRequest{Name: c.Name, Permissions: c.Permission})
	if err != nil {
		return err
	}
	return out.Print(r, func(w writer) { fmt.Fprintf(w, "created %s: %s\n", r.Name, strings.Join(r.Permissions, ", ")) })
}

type roleListCmd struct{}

func (roleListCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	roles, err := server.Roles(ctx)
	if err != nil {
		return err
	}
	return out.Print(roles.Value, func(w writer) {
		rows := make([][]string, len(roles.Value))
		for i, r := range roles.Value {
			rows[i] = []string{r.Name, strings.Join(r.Permissions, ", "), strings.Join(r.Groups, ", ")}
		}
		cli.Table(w, []string{"ROLE", "PERMISSIONS", "GROUPS"}, rows)
	})
}

type roleAssignCmd struct {
	Role  string `arg:"" help:"The role."`
	Group string `required:"" help:"The group of users." placeholder:"GROUP"`
}

func (c roleAssignCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	return done(out, server.AssignRole(ctx, c.Role, c.Group), "assigned", c.Role, c.Group)
}

type roleUnassignCmd struct {
	Role  string `arg:"" help:"The role."`
	Group string `required:"" help:"The group of users." placeholder:"GROUP"`
}

func (c roleUnassignCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	return done(out, server.UnassignRole(ctx, c.Role, c.Group), "unassigned", c.Role, c.Group)
}

type roleDeleteCmd struct {
	Name string `arg:"" help:"The role."`
}

func (c roleDeleteCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	return done(out, server.DeleteRole(ctx, c.Name), "deleted", c.Name)
}

type deviceGroupCmd struct {
	Create deviceGroupCreateCmd `cmd:"" help:"Make a device group and put the devices it matches into it."`
	List   deviceGroupListCmd   `cmd:"" help:"List the device groups by rank."`
	Change deviceGroupChangeCmd `cmd:"" help:"Change a device group's rules, rank or access."`
	Delete deviceGroupDeleteCmd `cmd:"" help:"Take a device group away; its devices go where they match next."`
}

type deviceGroupCreateCmd struct {
	Name        string   `arg:"" help:"Its name."`
	Rule        []string `required:"" help:"tag=V, name=GLOB, domain=GLOB or os=GLOB (repeatable): of the same kind one must match, of each kind one." placeholder:"RULE" sep:"none"`
	Rank        int      `help:"1 is the highest. Default: below all others." placeholder:"N"`
	Access      []string `help:"A group of users that reaches the devices (repeatable). Default: every group with a role." placeholder:"GROUP" sep:"none"`
	Description string   `help:"For people." placeholder:"TEXT"`
}

func (c deviceGroupCreateCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	g, err := server.CreateDeviceGroup(ctx, api.DeviceGroupRequest{Name: c.Name, Description: c.Description, Rank: c.Rank, Rules: c.Rule, Access: c.Access})
	if err != nil {
		return err
	}
	return out.Print(g, func(w writer) { fmt.Fprintf(w, "created %s with rank %d\n", g.Name, g.Rank) })
}

type deviceGroupListCmd struct{}

func (deviceGroupListCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	groups, err := server.DeviceGroups(ctx)
	if err != nil {
		return err
	}
	return out.Print(groups.Value, func(w writer) {
		rows := make([][]string, len(groups.Value))
		for i, g := range groups.Value {
			access := strings.Join(g.Access, ", ")
			if access == "" {
				access = "(every group with a role)"
			}
			rows[i] = []string{strconv.Itoa(g.Rank), g.Name, strings.Join(g.Rules, " "), access}
		}
		cli.Table(w, []string{"RANK", "DEVICE GROUP", "RULES", "ACCESS"}, rows)
	})
}

type deviceGroupChangeCmd struct {
	Name        string   `arg:"" help:"The device group; \"Ungrouped devices\" are those in none, whose access alone can be changed."`
	Rule        []string `help:"Rules in place of those it has (repeatable)." placeholder:"RULE" sep:"none"`
	Rank        *int     `help:"1 is the highest." placeholder:"N"`
	Access      []string `help:"Groups of users in place of those it has (repeatable)." placeholder:"GROUP" sep:"none" xor:"access"`
	Open        bool     `help:"Open it to every group with a role." xor:"access"`
	Description *string  `help:"For people." placeholder:"TEXT"`
}

func (c deviceGroupChangeCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	ch := api.DeviceGroupChange{Rank: c.Rank, Description: c.Description}
	if c.Rule != nil {
		ch.Rules = &c.Rule
	}
	if c.Access != nil || c.Open {
		access := append([]string{}, c.Access...)
		ch.Access = &access
	}
	g, err := server.ChangeDeviceGroup(ctx, c.Name, ch)
	if err != nil {
		return err
	}
	return out.Print(g, func(w writer) { fmt.Fprintf(w, "changed %s\n", g.Name) })
}

type deviceGroupDeleteCmd struct {
	Name string `arg:"" help:"The device group."`
}

func (c deviceGroupDeleteCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	return done(out, server.DeleteDeviceGroup(ctx, c.Name), "deleted", c.Name)
}
