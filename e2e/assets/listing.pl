# Lists a file tree as text, to compare two trees: a line for each entry, sorted by name, with
# everything that a layer must keep.
use strict;
use warnings;

my $root = shift or die "usage: listing.pl DIRECTORY\n";
chdir $root or die "$root: $!\n";

# Numbers of system calls (asm/unistd.h): lgetxattr and llistxattr.
my ($get, $list) = `uname -m` =~ /^x86_64/ ? (192, 195) : (9, 12);
my %names_of;
my @lines;

sub attributes {
    my ($path) = @_;
    my $buffer = "\0" x 65536;
    my $length = syscall($list, $path, $buffer, length $buffer);
    return "" if $length <= 0;
    my @said;
    for my $name (sort split /\0/, substr $buffer, 0, $length) {
        # User attributes and capabilities, without attributes that a file system has for itself.
        next unless $name =~ /^user\./ || $name eq "security.capability";
        my $value = "\0" x 65536;
        my $size = syscall($get, $path, $name, $value, length $value);
        push @said, "$name=" . unpack("H*", substr $value, 0, $size < 0 ? 0 : $size);
    }
    return join ",", @said;
}

sub content {
    my ($path, $size) = @_;
    return "large" if $size > 1 << 20;
    open my $sum, "-|", "sha256sum", "--", $path or die "$path: $!\n";
    my ($digest) = split / /, scalar <$sum>;
    return $digest =~ s/^\\//r;
}

sub entry {
    my ($path) = @_;
    my ($device, $inode, $mode, $links, $uid, $gid, $special, $size, undef, $time) = lstat $path
        or die "$path: $!\n";
    my $kind = -l _ ? "link" : -d _ ? "directory" : -f _ ? "file" : "other";
    # The time in whole seconds: not every format keeps more. The root's time depends on who created it.
    my @facts = ($kind, sprintf("%04o", $mode & 07777), "$uid:$gid", $path eq "." ? "-" : $time);
    push @facts, "-> " . readlink $path if $kind eq "link";
    push @facts, "$size bytes", content($path, $size) if $kind eq "file";
    push @facts, sprintf "%o %d", $mode, $special if $kind eq "other";
    push @{$names_of{"$device:$inode"}}, $path if $kind eq "file" && $links > 1;
    push @facts, attributes($path);
    push @lines, "$path: " . join " ", @facts;
    return unless $kind eq "directory";
    opendir my $dir, $path or die "$path: $!\n";
    entry("$path/$_") for sort grep { !/^\.\.?$/ } readdir $dir;
}

entry(".");
push @lines, "one file: " . join " ", sort @$_ for sort { $a->[0] cmp $b->[0] }
    # Overlay shows the link count of a lower layer, even after the other names were removed.
    grep { @$_ > 1 } values %names_of;
s/[^\t -~]/?/g, print "$_\n" for @lines;
